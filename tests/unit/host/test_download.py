"""Downloads: what comes in one piece, what is resumed, and what is reported if it does not come."""

from __future__ import annotations

import hashlib
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from web_server import Site, dripping, serving

from pytest_xhyve.host.download import Checksum, Limits, download, fetch_text
from pytest_xhyve.model.errors import ImageError

DISK = os.urandom(3 << 20)
CHECKSUM = Checksum("sha256", hashlib.sha256(DISK).hexdigest())
LIMITS = Limits(silence=0.5, tries=3, pause=0.01)
SHORT_LIMITS = replace(LIMITS, silence=0.4)
"""For a server that fails whatever the limits are. On a busy host, its bytes may come 0.3 s apart."""


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as site:
        site.add("/disk.img", DISK)
        yield site


def get(site: Site, target: Path, checksum: Checksum = CHECKSUM, path: str = "/disk.img") -> None:
    download(site.url + path, target, checksum, print, LIMITS)


@pytest.mark.parametrize("kind", ["sha256", "sha512"])
def test_file_in_one_piece(site: Site, tmp_path: Path, kind: str) -> None:
    get(site, tmp_path / "disk", Checksum(kind, hashlib.new(kind, DISK).hexdigest()))
    assert (tmp_path / "disk").read_bytes() == DISK
    assert [path.name for path in tmp_path.iterdir()] == ["disk"]


def test_break_is_resumed(site: Site, tmp_path: Path) -> None:
    site.cut = [1 << 20, 1 << 20]
    get(site, tmp_path / "disk")
    assert (tmp_path / "disk").read_bytes() == DISK
    assert [range_ for _, range_ in site.requests] == ["", f"bytes={1 << 20}-", f"bytes={2 << 20}-"]


@pytest.mark.parametrize("change", [{"ranges": False}, {"tagged": False}], ids=["no ranges", "no tag"])
def test_server_that_cannot_resume(site: Site, tmp_path: Path, change: dict[str, bool]) -> None:
    for key, value in change.items():
        setattr(site, key, value)
    site.cut = [1 << 20]
    get(site, tmp_path / "disk")
    assert (tmp_path / "disk").read_bytes() == DISK


def test_what_a_killed_process_left_is_resumed(site: Site, tmp_path: Path) -> None:
    site.cut = [1 << 20] * 3
    site.ranges = False
    with pytest.raises(ImageError, match=r"ended at byte 1048576 of 3145728 \(tried 3 times\)"):
        get(site, tmp_path / "disk")
    assert not (tmp_path / "disk").exists()
    site.ranges = True
    get(site, tmp_path / "disk")
    assert site.requests[-1][1] == f"bytes={1 << 20}-"
    assert (tmp_path / "disk").read_bytes() == DISK


def test_file_that_changed_meanwhile_is_not_mixed(site: Site, tmp_path: Path) -> None:
    site.cut = [1 << 20] * 3
    site.ranges = False
    with pytest.raises(ImageError):
        get(site, tmp_path / "disk")
    site.ranges = True
    newer = os.urandom(2 << 20)
    get(site, tmp_path / "disk", Checksum("sha256", site.add("/disk.img", newer)))
    assert (tmp_path / "disk").read_bytes() == newer


def test_file_that_became_shorter(site: Site, tmp_path: Path) -> None:
    (tmp_path / "disk.part").write_bytes(DISK + b"more")
    (tmp_path / "disk.part.tag").write_text(f'"{CHECKSUM.digest[:16]}"')
    get(site, tmp_path / "disk")
    assert (tmp_path / "disk").read_bytes() == DISK


def test_wrong_checksum_keeps_nothing(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=f"its SHA256 is {CHECKSUM.digest}, but 0000.* was expected"):
        get(site, tmp_path / "disk", replace(CHECKSUM, digest="0" * 64))
    assert list(tmp_path.iterdir()) == []


def test_missing_file_is_not_tried_again(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"the server answers 404 Not Found\n  the file may have moved"):
        get(site, tmp_path / "disk", path="/moved.img")
    assert len(site.requests) == 1


def test_server_that_is_busy_is_tried_again(site: Site, tmp_path: Path) -> None:
    site.status = [503, 429]
    get(site, tmp_path / "disk")
    assert (tmp_path / "disk").read_bytes() == DISK


def test_slow_server(site: Site, tmp_path: Path) -> None:
    site.drip = 1
    with pytest.raises(ImageError, match=r"sent only \d+ bytes in \d\.\d s, and 16 KiB are expected \(tried 3"):
        get(site, tmp_path / "disk")


@pytest.mark.parametrize(
    "begin", [b"HTTP/1.1 200 OK\r\nX-Long: ", b"HTTP/1.1 200 OK\r\nContent-Length: 3145728\r\n\r\n"]
)
def test_server_that_sends_a_byte_now_and_then(tmp_path: Path, begin: bytes) -> None:
    """Each wait for the next byte is short; their sum has a limit, for headers and for small files, too."""
    start = time.monotonic()
    with dripping(begin) as place:
        with pytest.raises(ImageError, match=r"the server sent only \d+ bytes in \d\.\d s.* \(tried 3 times\)"):
            download(f"http://{place}/disk.img", tmp_path / "disk", CHECKSUM, print, SHORT_LIMITS)
        with pytest.raises(ImageError, match=r"the server sent only \d+ bytes in \d\.\d s.* \(tried 3 times\)"):
            fetch_text(f"http://{place}/SHA256SUMS", SHORT_LIMITS)
    assert time.monotonic() - start < 20


@contextmanager
def no_space(part: Path) -> Iterator[str]:
    part.symlink_to("/dev/full")
    yield "No space left"


@contextmanager
def limit_of_files(part: Path) -> Iterator[str]:
    """As ulimit(1) sets it: what is written before is kept."""
    most, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        yield "File too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))


@pytest.mark.parametrize("lack", [no_space, limit_of_files])
def test_full_disk_is_not_blamed_on_the_server(
    site: Site, tmp_path: Path, lack: Callable[[Path], AbstractContextManager[str]]
) -> None:
    """It is no reason to try again, either."""
    with lack(tmp_path / "disk.part") as words, pytest.raises(OSError, match=words):
        get(site, tmp_path / "disk")
    assert len(site.requests) == 1


def test_server_that_does_not_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/disk.img"
        with pytest.raises(ImageError, match=r"does not answer \(tried 3 times\)\n  look at the network"):
            download(url, tmp_path / "disk", CHECKSUM, print, SHORT_LIMITS)
    with pytest.raises(ImageError, match="Connection refused"):
        download(url, tmp_path / "disk", CHECKSUM, print, LIMITS)
    with pytest.raises(ImageError, match=r"cannot download http://no\.such"):
        download("http://no.such.host.invalid/x", tmp_path / "disk", CHECKSUM, print, LIMITS)


def test_small_file(site: Site) -> None:
    site.add("/SHA256SUMS", b"text\n")
    site.status = [503]
    assert fetch_text(f"{site.url}/SHA256SUMS", LIMITS) == b"text\n"
    with pytest.raises(ImageError, match="more than 16 bytes"):
        fetch_text(f"{site.url}/disk.img", LIMITS, most=16)
