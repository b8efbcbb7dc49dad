from __future__ import annotations

import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fake_images import write_image

from pytest_xhyve.host import digests
from pytest_xhyve.host.digests import remember_digest, remembered_digest
from pytest_xhyve.images.check import check_image
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.model.errors import ImageError


def test_whole_image_passes(tmp_path: Path) -> None:
    check_image(read_manifest(write_image(tmp_path)), tmp_path)


def test_truncated_disk(tmp_path: Path) -> None:
    image = read_manifest(write_image(tmp_path))
    os.truncate(image.disk, 4000)
    with pytest.raises(ImageError, match=r"has 4000 bytes, but .* states 4096: it was truncated"):
        check_image(image, tmp_path)


def test_altered_disk_of_the_same_size(tmp_path: Path) -> None:
    image = read_manifest(write_image(tmp_path))
    check_image(image, tmp_path)
    before = image.disk.stat()
    with image.disk.open("r+b") as disk:
        disk.write(b"DISK")
    # Also one that sets the times back.
    os.utime(image.disk, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ImageError, match="was altered"):
        check_image(image, tmp_path)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose digest was computed."""
    files: list[Path] = []

    def digest_of(path: Path) -> str:
        files.append(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(digests, "digest_of", digest_of)
    return files


def test_disk_is_read_once_for_each_state(tmp_path: Path, read: list[Path]) -> None:
    image = read_manifest(write_image(tmp_path))
    check_image(image, tmp_path)
    check_image(image, tmp_path)
    assert read == [image.disk]
    image.disk.touch()
    check_image(image, tmp_path)
    assert read == [image.disk] * 2


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "null", '{"state": 1, "sha256": 1}'])
def test_damaged_memory_of_the_digest_is_not_believed(tmp_path: Path, read: list[Path], content: str) -> None:
    image = read_manifest(write_image(tmp_path))
    check_image(image, tmp_path)
    (record,) = tmp_path.glob("*.json")
    record.write_text(content)
    check_image(image, tmp_path)
    assert read == [image.disk] * 2


def test_digest_that_several_remember_at_once(tmp_path: Path) -> None:
    """As runs that begin at once do with a new image: none fails, and the digest is remembered."""
    disk = tmp_path / "disk"
    disk.write_bytes(b"disk")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: remember_digest(disk, "digest", tmp_path), range(100)))
    assert remembered_digest(disk, tmp_path) == "digest"


@pytest.mark.parametrize("missing", ["disk", "kernel", "initrd", "key"])
def test_missing_file(tmp_path: Path, missing: str) -> None:
    image = read_manifest(write_image(tmp_path))
    path: Path = getattr(image, missing)
    path.unlink()
    with pytest.raises(ImageError, match=f"cannot read {path}: No such file"):
        check_image(image, tmp_path)


def test_kernel_that_is_none(tmp_path: Path) -> None:
    image = read_manifest(write_image(tmp_path))
    assert image.kernel is not None
    image.kernel.write_bytes(b"\x7fELF" + b"\0" * 4096)
    with pytest.raises(ImageError, match="is not a Linux kernel"):
        check_image(image, tmp_path)


@pytest.mark.parametrize(
    ("made_as", "told_as", "message"), [("qcow2", "raw", "is qcow2, but"), ("raw", "qcow2", "is raw, but")]
)
def test_other_format_than_told(tmp_path: Path, made_as: str, told_as: str, message: str) -> None:
    changes: dict[str, Any] = {"format": told_as, "size": None, "sha256": None}
    image = read_manifest(write_image(tmp_path, **changes))
    subprocess.run(["qemu-img", "create", "-q", "-f", made_as, str(image.disk), "1M"], check=True)
    with pytest.raises(ImageError, match=message):
        check_image(image, tmp_path)
