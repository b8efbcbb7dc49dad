"""What the name or the path of an image stands for, and what is said of one that stands for nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fake_images import write_image

from pytest_xhyve.images.sources import Source, find_source
from pytest_xhyve.model.errors import ConfigurationError


def test_disk_leads_to_the_manifest_beside_it(tmp_path: Path) -> None:
    manifest = write_image(tmp_path)
    assert find_source(tmp_path / "ubuntu18.img") == Source(manifest=manifest)
    assert find_source(manifest) == Source(manifest=manifest)
    assert find_source("tiny") == Source(recipe="tiny")


def test_disk_without_manifest_is_found(tmp_path: Path) -> None:
    write_image(tmp_path).unlink()
    disk = tmp_path / "ubuntu18.img"
    assert find_source(disk) == Source(disk=disk)


@pytest.mark.parametrize("name", ["debian13", "no/such.img", "no.yaml", ""])
def test_unknown_image_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="not found"):
        find_source(name)


def test_near_names_are_suggested() -> None:
    with pytest.raises(ConfigurationError, match="did you mean debian12"):
        find_source("debian21")


def bind_socket(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(path))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Path.mkdir, "is a folder without recipe.yaml$"),
        (os.mkfifo, "is a FIFO, which cannot be a disk$"),
        (bind_socket, "is a socket, which cannot be a disk$"),
        (lambda path: path.symlink_to(path), "is a link that leads to itself$"),
        (lambda path: path.symlink_to("gone"), "is a link to gone, which does not exist$"),
    ],
    ids=["folder", "fifo", "socket", "loop", "dangling"],
)
@pytest.mark.parametrize("name", ["vm.img", "vm.yaml"])
def test_what_is_there_and_is_no_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[[Path], object], words: str
) -> None:
    # A socket's path has to be short.
    monkeypatch.chdir(tmp_path)
    make(Path(name))
    with pytest.raises(ConfigurationError, match=rf"(?m)^(image 'vm\.img'|manifest vm\.yaml) {words}"):
        find_source(name)


def test_images_in_a_folder_are_named(tmp_path: Path) -> None:
    for name in ("web.qcow2", "db.img", "README.md"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigurationError, match=r"give the path of an image in it: db\.img, web\.qcow2\n"):
        find_source(tmp_path)


def test_devices_are_named() -> None:
    with pytest.raises(ConfigurationError, match="image '/dev/null' is a character device, which cannot be a disk"):
        find_source("/dev/null")
    disk = next((found for found in sorted(Path("/dev").iterdir()) if found.is_block_device()), None)
    if disk is None:
        pytest.skip("this host has no block device")
    with pytest.raises(ConfigurationError, match=f"is a block device.*: `qemu-img convert -O qcow2 {disk} disk.qcow2`"):
        find_source(disk)
