from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_images import qcow2

from pytest_xhyve.host.digests import digest_of
from pytest_xhyve.host.layer_file import copy_layer
from pytest_xhyve.images.backing import backing_files, is_valid_layer
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.machine import Disk
from pytest_xhyve.templates.saving import _layers


def test_files_that_a_disk_is_valid_layer(tmp_path: Path) -> None:
    (tmp_path / "base.img").write_bytes(b"raw")
    middle = qcow2(tmp_path / "middle.qcow2", "base.img")
    top = qcow2(tmp_path / "top.qcow2", f"file:{middle}")
    assert backing_files(top, "qcow2") == (middle, tmp_path / "base.img")
    assert backing_files(tmp_path / "base.img", "raw") == backing_files(qcow2(tmp_path / "alone.qcow2"), "qcow2") == ()


def test_layer_of_a_file_that_changed(tmp_path: Path) -> None:
    base = tmp_path / "base.img"
    base.write_bytes(b"as it was")
    layer = qcow2(tmp_path / "layer.qcow2", "base.img")
    digests = [digest_of(base)]
    assert is_valid_layer(layer, digests, tmp_path)
    assert is_valid_layer(qcow2(tmp_path / "alone.qcow2"), digests, tmp_path)
    base.write_bytes(b"as it is now")
    assert not is_valid_layer(layer, digests, tmp_path)
    base.unlink()
    assert not is_valid_layer(layer, digests, tmp_path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"top\.qcow2 is based on .*gone\.img, which is missing"):
        backing_files(qcow2(tmp_path / "top.qcow2", "gone.img"), "qcow2")


def test_circle(tmp_path: Path) -> None:
    qcow2(tmp_path / "a.qcow2", "b.qcow2")
    with pytest.raises(ImageError, match="based on itself"):
        backing_files(qcow2(tmp_path / "b.qcow2", "a.qcow2"), "qcow2")


def test_encrypted(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="encrypted qcow2"):
        backing_files(qcow2(tmp_path / "top.qcow2", encryption=2), "qcow2")


def test_data_in_another_file(tmp_path: Path) -> None:
    """The guest would read any file of the user that the header names."""
    disk = tmp_path / "top.qcow2"
    subprocess.run(
        [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            f"data_file={tmp_path / 'secret'},data_file_raw=on",
            disk,
            "1M",
        ],
        check=True,
    )
    with pytest.raises(ImageError, match=r"top\.qcow2 has its data in another file"):
        backing_files(disk, "qcow2")


def test_bytes_that_a_guest_wrote_name_no_file(tmp_path: Path) -> None:
    """A guest that writes the header of a qcow2 file to its raw disk gets no file of the host into a bundle."""
    (tmp_path / "secret").write_bytes(b"secret")
    raw = qcow2(tmp_path / "disk.raw", "secret")
    assert backing_files(raw, "raw") == ()
    over = tmp_path / "over.qcow2"
    argv = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", str(raw), "-F", "raw", str(over), "1M"]
    subprocess.run(argv, check=True)
    assert backing_files(over, "qcow2") == (raw,)
    with pytest.raises(ImageError, match="begins as a qcow2 file does"):
        copy_layer(Disk(raw, "raw"), Disk(tmp_path / "secret", "raw"), tmp_path)
    with ExitStack() as stack:
        image: Any = SimpleNamespace(disk=tmp_path / "image.img", format="raw")
        saved, files = _layers(Disk(raw.rename(tmp_path / "disk1.raw"), "raw"), image, tmp_path, stack)
    assert (saved.layers, files) == (("raw",), [tmp_path / "disk1.raw"])


@pytest.mark.parametrize(
    ("content", "over_image"), [(b"the image", True), (b"not image", False), (b"longer image", False)]
)
def test_disk_over_a_copy_of_the_image(tmp_path: Path, content: bytes, *, over_image: bool) -> None:
    """A template that was made before the image was copied is over the copy in the old place."""
    (tmp_path / "image.img").write_bytes(content)
    (tmp_path / "old.img").write_bytes(b"the image")
    template = qcow2(tmp_path / "template.qcow2", "old.img")
    own = qcow2(tmp_path / "own.qcow2", "template.qcow2")
    image: Any = SimpleNamespace(disk=tmp_path / "image.img", format="raw")
    with ExitStack() as stack:
        saved, files = _layers(Disk(own, "qcow2"), image, tmp_path, stack)
    assert saved.over_image == over_image
    assert files == [own, template, *([] if over_image else [tmp_path / "old.img"])]
