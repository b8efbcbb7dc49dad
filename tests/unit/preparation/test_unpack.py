from __future__ import annotations

import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from mounting import mounted

from pytest_xhyve.cli.prune import remove
from pytest_xhyve.cli.prune_candidates import find_candidates
from pytest_xhyve.host.digests import digest_of, known_digest
from pytest_xhyve.host.disk import size_on_disk
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.sources import Source, find_source
from pytest_xhyve.model.errors import ConfigurationError, ImageError
from pytest_xhyve.preparation.disk_file import look
from pytest_xhyve.preparation.unpack import look_inside

DISK = b"XFSB".ljust(1 << 16, b"x") + bytes(5 << 20) + b"end"


@pytest.mark.parametrize(
    ("kind", "compress"), [("gzip", gzip.compress), ("xz", lzma.compress), ("zstd", zstandard.compress)]
)
def test_disk_is_unpacked_once(new_home: Home, tmp_path: Path, kind: str, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "disk.img.compressed"
    path.write_bytes(compress(DISK))
    seen = look(path)
    assert (seen.path, seen.format, seen.compression) == (path, "raw", kind)
    said: list[str] = []
    disk = look_inside(path, new_home, said.append)
    assert disk.path.read_bytes() == DISK
    assert size_on_disk(disk.path) < 1 << 20
    assert disk.path.stat().st_mode & 0o777 == 0o400
    assert known_digest(disk.path, new_home.folder("checked")) == digest_of(disk.path)
    assert len(said) == 1
    # The content counts, not the path.
    path.rename(tmp_path / "moved")
    assert look_inside(tmp_path / "moved", new_home, said.append) == disk
    assert len(said) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"# a note\n", mtime=0), "there is no disk in it: a text file that begins with '# a note'"),
        (gzip.compress(b"", mtime=0), "there is no disk in it: an empty file"),
        (gzip.compress(gzip.compress(DISK, mtime=0), mtime=0), "compressed by gzip once more"),
        (gzip.compress(bytes(257) + b"ustar".ljust(1 << 17, b"x"), mtime=0), "there is no disk in it: a tar archive"),
    ],
)
def test_what_is_not_a_compressed_disk(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "disk.gz"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        look(path)


def test_disk_that_is_cut_off_leaves_nothing(new_home: Home, tmp_path: Path) -> None:
    path = tmp_path / "disk.gz"
    path.write_bytes(gzip.compress(DISK)[:20])
    with pytest.raises(ImageError, match="is damaged or cut off"):
        look(path)
    path.write_bytes(gzip.compress(b"XFSB" + os.urandom(4 << 20), 1)[: 3 << 20])
    with pytest.raises(ImageError, match="is damaged or cut off"):
        look_inside(path, new_home, lambda _: None)
    assert not [each for each in new_home.folder("unpacked").iterdir() if each.is_dir()]


def test_full_disk_is_seen_in_time(tmp_path: Path) -> None:
    path = tmp_path / "disk.gz"
    path.write_bytes(gzip.compress(b"XFSB" + b"x" * (80 << 20), 1))
    with mounted(tmp_path / "home", "size=300m") as folder:
        home = Home(folder)
        with pytest.raises(ImageError, match=r"no space left to unpack .*disk.gz\n.*`pytest-xhyve prune`"):
            look_inside(path, home, lambda _: None)
        assert not [each for each in home.folder("unpacked").iterdir() if each.is_dir()]


def test_unpacked_disk_goes_with_the_images(new_home: Home, tmp_path: Path) -> None:
    path = tmp_path / "disk.gz"
    path.write_bytes(gzip.compress(DISK))
    disk = look_inside(path, new_home, lambda _: None).path
    assert find_candidates(new_home) == []
    (candidate,) = find_candidates(new_home, images=True)
    assert (candidate.kind, candidate.path) == ("unpacked disk", disk.parent)
    assert remove([candidate], new_home).removed == (candidate,)
    assert not disk.exists()


def test_manifest_of_a_compressed_disk(tmp_path: Path) -> None:
    disk = tmp_path / "ubuntu18.img.xz"
    disk.write_bytes(b"")
    assert find_source(disk) == Source(disk=disk)
    (tmp_path / "ubuntu18.yaml").write_text("disk: ubuntu18.img.xz\n")
    assert find_source(disk) == Source(manifest=tmp_path / "ubuntu18.yaml")
