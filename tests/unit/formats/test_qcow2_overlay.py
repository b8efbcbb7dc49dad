"""Differences in a qcow2 file, as QEMU reads them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
from strategies import examples

from pytest_xhyve.formats.qcow2_overlay import COARSE, FINE, Qcow2Overlay
from pytest_xhyve.host.qemu_img import run_qemu_img

SECTOR = 512
# More than one L2 table's clusters of the fine kind, which are 16 MiB.
SIZE = 40 << 20


def content(overlay: Path, raw: Path) -> bytes:
    """What QEMU reads from the *overlay*; its checker has found nothing wrong with it."""
    checked = run_qemu_img("check", "-q", str(overlay))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    done = run_qemu_img("convert", "-O", "raw", str(overlay), str(raw))
    assert done.returncode == 0, done.stderr
    return raw.read_bytes()


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """Offset, size and byte of some writes that often meet in one cluster; byte 0 is for zeros."""
    start = st.sampled_from([0, 30, 32, (16 << 20) // SECTOR - 5, SIZE // SECTOR - 40])
    change = st.tuples(start, st.integers(0, 35), st.integers(1, 70), st.integers(0, 255))
    found = draw(st.lists(change, max_size=8))
    return [
        (at * SECTOR, min(size * SECTOR, SIZE - at * SECTOR), byte)
        for at, size, byte in ((first + more, size, byte) for first, more, size, byte in found)
    ]


@examples(8)
@hypothesis.given(changes())
def test_any_sectors_differ(changed: Sequence[tuple[int, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base, with a comma.raw"
        expected = bytearray(bytes(range(256)) * (SIZE // 256))
        base.write_bytes(expected)
        path = Path(folder) / "overlay.qcow2"
        with Qcow2Overlay(path, SIZE, base, "raw") as overlay:
            for offset, size, byte in changed:
                if byte:
                    overlay.write(offset, bytes([byte]) * size)
                else:
                    overlay.zero(offset, size)
                expected[offset : offset + size] = bytes([byte]) * size
        assert content(path, Path(folder) / "raw") == expected


@pytest.mark.parametrize("bits", [FINE, COARSE])
def test_empty_overlay_is_its_backing_file(bits: int, tmp_path: Path) -> None:
    base = tmp_path / "base.raw"
    base.write_bytes(b"data" * (1 << 18) + b"end!" * 128)
    with Qcow2Overlay(tmp_path / "overlay.qcow2", base.stat().st_size, base, "raw", bits):
        pass
    assert content(tmp_path / "overlay.qcow2", tmp_path / "raw") == base.read_bytes()
    # Another overlay may be based on it.
    with Qcow2Overlay(tmp_path / "second.qcow2", base.stat().st_size, tmp_path / "overlay.qcow2", "qcow2") as second:
        second.write(0, b"\1" * SECTOR)
    assert content(tmp_path / "second.qcow2", tmp_path / "raw") == b"\1" * SECTOR + base.read_bytes()[SECTOR:]


def test_large_disk_takes_little_space(tmp_path: Path) -> None:
    base, path = tmp_path / "base.raw", tmp_path / "overlay.qcow2"
    with base.open("wb") as file:
        file.truncate(4 << 40)
    with Qcow2Overlay(path, 4 << 40, base, "raw", COARSE):
        pass
    assert path.stat().st_size < 1 << 20
    assert run_qemu_img("check", "-q", str(path)).returncode == 0


def test_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    with pytest.raises(FileExistsError):
        Qcow2Overlay(tmp_path / "there", SECTOR, tmp_path / "base", "raw")
    with pytest.raises(ValueError, match="longer than 1023"):
        Qcow2Overlay(tmp_path / "new", SECTOR, tmp_path / ("x" * 1100), "raw")
