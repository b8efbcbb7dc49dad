"""The name of a backing file in a qcow2 header that another person may have written."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

import pytest

from pytest_xhyve.formats.qcow2 import read_qcow2_header, set_backing


def overlay(folder: Path) -> Path:
    (folder / "base.raw").write_bytes(bytes(1 << 20))
    path = folder / "over.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(folder / "base.raw"), "-F", "raw", str(path)], check=True
    )
    return path


@pytest.mark.parametrize("name", ["b.raw", "a-longer-name-than-that-of-the-file-before.raw"])
def test_qemu_finds_the_new_file(tmp_path: Path, name: str) -> None:
    path = overlay(tmp_path)
    new = (tmp_path / "base.raw").rename(tmp_path / name)
    set_backing(path, str(new))
    header = read_qcow2_header(path)
    assert header is not None
    assert header.backing == str(new)
    done = subprocess.run(["qemu-img", "info", "--output=json", str(path)], check=True, capture_output=True)
    assert json.loads(done.stdout)["backing-filename"] == str(new)
    subprocess.run(["qemu-img", "check", "-q", str(path)], check=True)


def test_file_that_must_stand_alone_does(tmp_path: Path) -> None:
    path = overlay(tmp_path)
    with pytest.raises(ValueError, match="based on another file"):
        set_backing(path, None)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M"], check=True)
    set_backing(path, None)
    with pytest.raises(ValueError, match="no room"):
        set_backing(path, "base.raw")


def test_data_in_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "it.qcow2"
    data = tmp_path / "data"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data}", str(path), "1M"], check=True)
    with pytest.raises(ValueError, match="its data is in another file"):
        set_backing(path, None)


def test_no_qcow2_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_bytes(bytes(200))
    with pytest.raises(ValueError, match="not a qcow2 file"):
        set_backing(path, None)
    path.write_bytes(b"QFI\xfb" + struct.pack(">IQII", 3, 1 << 40, 5, 16) + bytes(100))
    with pytest.raises(ValueError, match="no room"):
        set_backing(path, "base.raw")
