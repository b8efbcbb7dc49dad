"""`pytest-xhyve show` and `boot-files`, as far as no guest is needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run_separately
from facts import facts_of
from fake_images import write_image

from pytest_xhyve.cli.show import lines
from pytest_xhyve.images.keys import KeyPair
from pytest_xhyve.preparation.description import describe_disk
from pytest_xhyve.preparation.disk_file import DiskFile

MBR = bytes(446) + bytes((0, 0, 0, 0, 0x83, 0, 0, 0)) + (1).to_bytes(4, "little") + (9).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# a note\n", "is not a disk: it is a text file"),
        (b"", "is not a disk: it is an empty file"),
        (MBR.ljust(510, b"\0") + b"\x55\xaa", "is cut off: its partitions end at byte 5120"),
    ],
)
@pytest.mark.parametrize("command", ["show", "boot-files"])
def test_what_is_not_a_whole_disk(command: str, content: bytes, message: str, tmp_path: Path) -> None:
    disk = tmp_path / "note.img"
    disk.write_bytes(content)
    folder = tmp_path / "boot"
    result = run_separately(command, str(disk), *([str(folder)] if command == "boot-files" else []))
    assert result.exit_code != 0
    assert message in result.stderr
    assert not folder.exists()


def test_folder_that_cannot_take_the_files(tmp_path: Path) -> None:
    manifest = str(write_image(tmp_path))
    result = run_separately("boot-files", manifest, str(tmp_path))
    assert f"{tmp_path} has files already" in result.stderr
    result = run_separately("boot-files", manifest, str(tmp_path / "key" / "below"))
    assert "cannot write to" in result.stderr
    folder = tmp_path / "new"
    assert run_separately("boot-files", manifest, str(folder)).exit_code == 0
    assert (folder / "cmdline").read_text() == "root=/dev/vda console=ttyS0\n"
    assert (folder / "vmlinuz").read_bytes() == (tmp_path / "vmlinuz").read_bytes()


def test_error_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    manifest = write_image(tmp_path)
    (tmp_path / "initrd").unlink()
    folder = tmp_path / "new"
    assert run_separately("boot-files", str(manifest), str(folder)).exit_code != 0
    assert not folder.exists()


def test_manifest_is_shown(tmp_path: Path) -> None:
    manifest = write_image(tmp_path, memory="1G")
    shown = run_separately("show", str(manifest)).stdout
    assert "cmdline:         root=/dev/vda console=ttyS0\n" in shown
    assert "memory:          1 GiB\n" in shown
    found = json.loads(run_separately("show", "--json", str(manifest)).stdout)
    assert (found["memory"], found["kernel"]) == (1 << 30, str(tmp_path / "vmlinuz"))


def test_recipe_that_is_not_built(tmp_path: Path) -> None:
    home = {"PYTEST_XHYVE_HOME": str(tmp_path)}
    assert json.loads(run_separately("show", "tiny", "--json", **home).stdout)["manifest"] is None
    assert "is not built yet" in run_separately("boot-files", "tiny", str(tmp_path / "new"), **home).stderr


def test_disk_that_cannot_become_a_guest_is_shown_all_the_same() -> None:
    facts = facts_of(there=("usr/sbin/dropbear",), boot=("vmlinuz-1", "initrd.img-1"))
    path = Path("/disks/some.img")
    disk = DiskFile(path, "raw")
    client = KeyPair.generate()
    text = "\n".join(lines(describe_disk(path, disk, facts, client)))
    assert "kernel:          /boot/vmlinuz-1\n" in text
    assert "unusable" not in text
    text = "\n".join(lines(describe_disk(path, disk, facts_of(), client)))
    assert "system:          name: Debian\n" in text
    assert "unusable:        no kernel found in /boot" in text
