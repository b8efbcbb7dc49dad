"""Files of a bundle, which another person may have made, as files of this host."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pytest_xhyve.fleet.unpacking import check_lower, set_base, unpack, unpack_checked
from pytest_xhyve.formats.bundle_file import BundleReader, BundleWriter, DamagedBundle
from pytest_xhyve.formats.qcow2_overlay import COARSE, Qcow2Overlay

CONTENT = bytes(1 << 20) + b"something" + bytes(3 << 20) + b"end" + bytes(100)
MEMBER = "image-files/f0"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "it.xhyve"
    with path.open("w+b") as file:
        writer = BundleWriter(file, {})
        writer.add(MEMBER, [CONTENT])
        writer.finish()
    return path


def test_zeros_become_holes(bundle: Path, tmp_path: Path) -> None:
    with BundleReader.open(bundle) as reader:
        unpack(reader, MEMBER, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == CONTENT
        assert (tmp_path / "file").stat().st_blocks * 512 < len(CONTENT) // 4
        with pytest.raises(FileExistsError):
            unpack(reader, MEMBER, tmp_path / "file")


def test_other_content_than_stated_is_refused(bundle: Path, tmp_path: Path) -> None:
    with BundleReader.open(bundle) as reader:
        unpack_checked(reader, MEMBER, hashlib.sha256(CONTENT).hexdigest(), tmp_path / "file")
        with pytest.raises(DamagedBundle, match="has another content than it states"):
            unpack_checked(reader, MEMBER, hashlib.sha256(b"other").hexdigest(), tmp_path / "other")


def test_raw_file_below_another_is_no_qcow2_file(tmp_path: Path) -> None:
    """The file above decides how QEMU opens it, and its header could name any file of this host."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(1 << 16))
    lower = tmp_path / "lower"
    with Qcow2Overlay(lower, 1 << 16, secret, "raw", COARSE):
        pass
    with pytest.raises(DamagedBundle, match="and should not be one"):
        check_lower(lower, "raw", MEMBER)
    check_lower(lower, "qcow2", MEMBER)
    check_lower(secret, "raw", MEMBER)


def test_base_is_that_of_the_bundle(tmp_path: Path) -> None:
    secret, base, disk = (tmp_path / name for name in ("secret", "base", "disk"))
    for path in (secret, base):
        path.write_bytes(bytes(1 << 16))
    with Qcow2Overlay(disk, 1 << 16, secret, "raw", COARSE):
        pass
    set_base(disk, "qcow2", base, MEMBER)
    assert str(secret).encode() not in disk.read_bytes()[:65536].split(b"\0")
    assert str(base).encode() in disk.read_bytes()[:65536]
    with pytest.raises(DamagedBundle, match="is based on another file"):
        set_base(disk, "qcow2", None, MEMBER)
    with pytest.raises(DamagedBundle, match="is not a qcow2 file"):
        set_base(secret, "raw", base, MEMBER)
    set_base(secret, "raw", None, MEMBER)
