"""Files that begin like a disk and are none: what is said of them before any guest starts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.preparation.disk_file import check_unused_and_whole, look

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


@pytest.mark.parametrize(
    ("name", "head"),
    [("vmdk", b"KDMV"), ("vpc", b"conectix"), ("vhdx", b"vhdxfile"), ("qcow2", b"QFI\xfb\0\0\0\3")],
)
def test_file_that_only_begins_like_a_disk(tmp_path: Path, name: str, head: bytes) -> None:
    path = tmp_path / "vm.disk"
    path.write_bytes(head + bytes(1 << 20))
    with pytest.raises(
        ImageError, match=rf"(?s)cannot open {path} as {name}: .*damaged, cut off, or of a variant.*copy the disk again"
    ):
        check_unused_and_whole(look(path))


@pytest.mark.parametrize("made", ["qcow2", "vmdk", "vpc", "vhdx", "vdi"])
def test_disk_that_is_cut_off(tmp_path: Path, made: str) -> None:
    # Its own name does not make a disk one that is locked.
    path = tmp_path / "lock"
    subprocess.run(["qemu-img", "create", "-q", "-f", made, path, "64M"], check=True, timeout=60)
    check_unused_and_whole(look(path))
    os.truncate(path, 600)
    with pytest.raises(ImageError, match=rf"(?s){path}.* damaged(,| or) cut off"):
        check_unused_and_whole(look(path))


def test_disk_in_which_another_program_writes(tmp_path: Path) -> None:
    path = tmp_path / "vm.disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True, timeout=60)
    with subprocess.Popen(["qemu-io", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write(b"length\n")
        writer.stdin.flush()
        assert writer.stdout.read(1)
        with pytest.raises(ImageError, match="is in use by another program"):
            check_unused_and_whole(look(path))
        writer.stdin.close()
