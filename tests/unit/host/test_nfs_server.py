"""What the server of shares gives to guests, and what a hostile guest does not get."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import nfs_client as nfs
import pytest
from nfs_client import NfsClient

from pytest_xhyve.formats.xdr import XdrReader, opaque, uhyper, uints
from pytest_xhyve.host.nfs_server import NfsServer
from pytest_xhyve.host.shared_folder import SharedFolder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("not for guests")
    project = tmp_path / "project"
    (project / "sub" / "deep").mkdir(parents=True)
    (project / "a.txt").write_text("hello")
    (project / "sub" / "deep" / "b").write_bytes(bytes(range(256)) * 1000)
    (project / "out").symlink_to(tmp_path)
    (project / "secret").symlink_to(tmp_path / "secret")
    return project


@pytest.fixture
def folder(project: Path) -> Iterator[SharedFolder]:
    folder = SharedFolder(project)
    yield folder
    folder.close()


@pytest.fixture
def client(folder: SharedFolder) -> Iterator[NfsClient]:
    with NfsServer([folder]) as server, NfsClient(server.port) as client:
        yield client


@pytest.fixture
def root(client: NfsClient, folder: SharedFolder) -> bytes:
    root = client.mount(f"/{folder.token.hex()}/1000/100")
    assert root is not None
    return root


def test_files_can_be_read(client: NfsClient, root: bytes) -> None:
    assert client.read(client.find(root, "a.txt")) == (nfs.OK, b"hello")
    deep = client.find(root, "sub/deep/b")
    assert client.read(deep, 100, 10) == (nfs.OK, bytes(range(100, 110)))
    assert client.read(deep, 256_000) == (nfs.OK, b"")
    assert client.read(deep, 1 << 63)[0] == nfs.INVALID
    assert client.read(client.find(root, "sub"))[0] == nfs.INVALID


def test_a_long_folder_is_listed_in_parts(client: NfsClient, root: bytes, project: Path) -> None:
    for number in range(500):
        (project / "sub" / f"file {number}").touch()
    found = client.names(client.find(root, "sub"), 1024)
    assert sorted(found) == sorted([".", "..", *os.listdir(project / "sub")])  # noqa: PTH208


def test_files_belong_to_the_user_of_the_guest(client: NfsClient, root: bytes, project: Path) -> None:
    (project / "a.txt").chmod(0o4750)
    status, reader = client.nfs(1, opaque(client.find(root, "a.txt")))
    assert (status, reader.uint(), reader.uint()) == (nfs.OK, 1, 0o750)
    assert (reader.uint(), reader.uint(), reader.uint(), reader.uhyper()) == (1, 1000, 100, 5)


def test_links_are_not_followed(client: NfsClient, root: bytes, project: Path) -> None:
    """A guest follows them among its own files."""
    link = client.find(root, "secret")
    status, reader = client.nfs(5, opaque(link))
    nfs.skip_attributes(reader)
    assert (status, reader.opaque(1024)) == (nfs.OK, os.fsencode(project.parent / "secret"))
    assert client.read(link)[0] == nfs.STALE
    out = client.find(root, "out")
    assert client.look_up(out, "secret")[0] in (nfs.STALE, nfs.NOT_FOLDER)


def test_a_folder_that_becomes_a_link_is_not_followed(client: NfsClient, root: bytes, project: Path) -> None:
    deep = client.find(root, "sub/deep/b")
    (project / "sub").rename(project / "other")
    (project.parent / "elsewhere" / "deep").mkdir(parents=True)
    (project.parent / "elsewhere" / "deep" / "b").write_text("not for guests")
    (project / "sub").symlink_to(project.parent / "elsewhere")
    assert client.read(deep)[0] != nfs.OK


def test_a_file_in_the_place_of_another_is_another(client: NfsClient, root: bytes, project: Path) -> None:
    """As editors write: a new file, renamed."""
    old = client.find(root, "a.txt")
    (project / "new").write_text("new")
    (project / "new").rename(project / "a.txt")
    assert client.read(old)[0] == nfs.STALE
    assert client.read(client.find(root, "a.txt")) == (nfs.OK, b"new")


@pytest.mark.parametrize("name", ["../secret", "sub/deep", "a.txt\0", "", "/etc/passwd"])
def test_a_name_is_not_a_path(client: NfsClient, root: bytes, name: str) -> None:
    assert client.look_up(root, name)[0] == nfs.NO_ENTRY


def test_no_way_leads_above_the_folder(client: NfsClient, root: bytes) -> None:
    assert client.look_up(root, "..") == (nfs.OK, root)
    assert client.look_up(client.find(root, "sub/deep"), "..") == (nfs.OK, client.find(root, "sub"))
    assert client.look_up(root, "x" * 256)[0] == nfs.NAME_TOO_LONG


@pytest.mark.parametrize("procedure", [2, *range(7, 16), 21])
def test_nothing_is_written(client: NfsClient, root: bytes, project: Path, procedure: int) -> None:
    before = sorted(project.rglob("*"))
    status, _ = client.nfs(procedure, opaque(root) + opaque(b"new") + uints(*[1] * 20))
    assert status == nfs.READ_ONLY
    assert sorted(project.rglob("*")) == before


def test_a_fifo_does_not_block(client: NfsClient, root: bytes, project: Path) -> None:
    os.mkfifo(project / "fifo")
    fifo = client.find(root, "fifo")
    assert client.read(fifo)[0] == nfs.INVALID
    assert stat.S_ISFIFO((project / "fifo").stat().st_mode)


@pytest.mark.parametrize(
    "path", ["/", "/etc", "/00", f"/{'00' * 16}/0/0", "//0/0", "/é/0/0", "/{token}", "/{token}/a/0"]
)
def test_who_does_not_know_the_token_gets_nothing(client: NfsClient, folder: SharedFolder, path: str) -> None:
    assert client.mount(path.format(token=folder.token.hex())) is None


@pytest.mark.parametrize("handle", [b"", bytes(24), b"x" * 64])
def test_a_forged_handle_is_refused(client: NfsClient, root: bytes, handle: bytes) -> None:
    assert client.nfs(1, opaque(handle))[0] == nfs.STALE
    assert client.nfs(1, opaque(root[:16] + (1 << 40).to_bytes(8)))[0] == nfs.STALE


def test_what_is_not_a_call_ends_the_connection(folder: SharedFolder) -> None:
    with NfsServer([folder]) as server:
        for message in (b"\xff" * 100, uints(1 << 31 | 1 << 24), uints(1 << 31 | 8) + bytes(8), uints(0) * 100):
            with NfsClient(server.port) as client:
                client.send(message)
                assert client.is_closed()


def test_calls_that_it_does_not_know(client: NfsClient, root: bytes) -> None:
    unknown_program, unknown_version, unknown_procedure, unreadable = 1, 2, 3, 4
    assert client.call(100227, 1)[0] == unknown_program
    assert client.call(nfs.NFS, 1, version=4)[0] == unknown_version
    assert client.call(nfs.NFS, 22)[0] == unknown_procedure
    assert client.call(nfs.NFS, 6, opaque(root) + uhyper(0))[0] == unreadable
    assert client.call(nfs.NFS, 1, uints(1 << 20))[0] == unreadable
    assert client.call(nfs.NFS, 0)[0] == nfs.OK


def test_strangers_do_not_keep_a_guest_out(folder: SharedFolder) -> None:
    """Every program of the host can connect; it does not know the token."""
    path = f"/{folder.token.hex()}/0/0"
    with NfsServer([folder]) as server, ExitStack() as stack:
        early = stack.enter_context(NfsClient(server.port))
        root = early.mount(path)
        assert root is not None
        strangers = [stack.enter_context(NfsClient(server.port)) for _ in range(200)]
        late = stack.enter_context(NfsClient(server.port))
        for client in (early, late):
            assert client.read(client.find(root, "a.txt")) == (nfs.OK, b"hello")
        assert strangers[0].is_closed()


def test_a_device_is_not_opened(client: NfsClient, root: bytes, project: Path) -> None:
    """Opening some devices changes them; a FIFO has no end."""
    os.mkfifo(project / "fifo")
    opened = []
    reading = threading.Thread(target=lambda: opened.append((project / "fifo").open("wb", buffering=0)), daemon=True)
    reading.start()
    assert client.read(client.find(root, "fifo"))[0] == nfs.INVALID
    reading.join(0.3)
    assert not opened
    with (project / "fifo").open("rb", buffering=0):
        reading.join(10)
    opened[0].close()


def test_the_end_of_the_server_ends_its_connections(folder: SharedFolder) -> None:
    with NfsServer([folder]) as server:
        client = NfsClient(server.port)
        assert client.call(nfs.NFS, 0)[0] == nfs.OK
    with client:
        assert client.is_closed()
    server.close()


def test_xdr_ends() -> None:
    reader = XdrReader(uints(1) + opaque(b"abcde"))
    assert (reader.uint(), reader.opaque(5)) == (1, b"abcde")
    with pytest.raises(ValueError, match="too short"):
        reader.uint()
    with pytest.raises(ValueError, match="6 bytes where at most 5"):
        XdrReader(opaque(b"abcdef")).opaque(5)
