"""Copy files and folders between host and guest.

Both ways go as a tar archive through the SSH connection: it takes folders, modes and links as they are, and needs
no SFTP server, which small guests do not have.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, cast

import paramiko

from pytest_xhyve.guest.commands import Connection, begin
from pytest_xhyve.model.errors import XhyveError

_CHUNK = 1 << 16


class _Input:
    """A command's standard input; paramiko's own file writes what is left once more when it is thrown away."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def write(self, data: bytes) -> int:
        self._channel.sendall(data)
        return len(data)


def put(connection: Connection, local: Path, remote: str) -> None:
    """Copy *local*, a file or folder, to *remote* as ``cp -r`` does: into it when it is a folder.

    Raises:
        FileNotFoundError: *local* does not exist.
        XhyveError: the guest refused.
    """
    local.lstat()
    what = f"put {local} to {remote}"
    target = PurePosixPath(remote)
    if remote.endswith("/") or _is_folder(connection, remote):
        target /= local.name
    folder = shlex.quote(str(target.parent))
    with _command(connection, f"mkdir -p {folder} && tar -C {folder} -xf -", what) as channel:
        refused: OSError | None = None
        try:
            with tarfile.open(
                fileobj=cast(Any, _Input(channel)), mode="w|", format=tarfile.GNU_FORMAT, bufsize=_CHUNK
            ) as archive:
                archive.add(local, arcname=target.name, filter=_owned_by_login_user)
        except TimeoutError:
            raise
        except OSError as error:
            refused = error
        channel.shutdown_write()
        _check(channel, what, refused)


def get(connection: Connection, remote: str, local: Path) -> Path:
    """Copy *remote*, a file or folder, to *local* as ``cp -rH`` does: into it when it is a folder.

    All is unpacked in a new folder first and gets its place when it is whole, so that a guest, which may be hostile,
    can write nothing else.

    Returns:
        the copy.

    Raises:
        XhyveError: the guest has no such file, or refused; or there is something in it that leads outside, as a
            symbolic link with an absolute path does.
    """
    what = f"get {remote}"
    source = PurePosixPath(remote)
    if local.is_dir():
        local /= source.name
    local.parent.mkdir(parents=True, exist_ok=True)
    # What is asked for may be a link itself, and then the file is meant that it leads to.
    line = (
        f"path=$(readlink -f -- {shlex.quote(remote)}) || path={shlex.quote(remote)}; "
        'cd "$(dirname "$path")" && tar -cf - -- "$(basename "$path")"'
    )
    with (
        tempfile.TemporaryDirectory(prefix=".xhyve-", dir=local.parent) as box,
        _command(connection, line, what) as channel,
    ):
        channel.shutdown_write()
        refused: Exception | None = None
        try:
            with channel.makefile("rb", _CHUNK) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
                archive.extractall(box, filter="data")
        except TimeoutError:
            raise
        except (tarfile.TarError, ValueError, KeyError, OSError) as error:
            refused = error
        _check(channel, what, refused)
        got = list(Path(box).iterdir())
        if len(got) != 1:
            raise XhyveError(f"cannot {what}: the guest sent {len(got)} files in the place of one")
        try:
            if got[0].is_dir() and local.is_dir():
                shutil.copytree(got[0], local, symlinks=True, dirs_exist_ok=True)
            else:
                got[0].replace(local)
        except OSError as error:
            raise XhyveError(f"cannot {what}: {error}") from error
        return local


@contextmanager
def _command(connection: Connection, line: str, what: str) -> Iterator[paramiko.Channel]:
    """A channel on which *line* runs; a guest that dies meanwhile, or is silent for too long, ends it with an error."""
    try:
        channel = begin(connection, line, None)
        assert channel is not None
        with channel:
            channel.settimeout(connection.step)
            yield channel
    except TimeoutError as error:
        connection.check_alive()
        raise XhyveError(f"cannot {what}: the guest was silent for {connection.step:g} s") from error
    except (paramiko.SSHException, EOFError) as error:
        raise connection.lost(what, error) from error


def _is_folder(connection: Connection, remote: str) -> bool:
    with _command(connection, f"test -d {shlex.quote(remote)}", f"look at {remote}") as channel:
        channel.status_event.wait(connection.step)
        return channel.exit_status == 0


def _owned_by_login_user(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _check(channel: paramiko.Channel, what: str, refused: Exception | None) -> None:
    """Raise when tar in the guest has failed, or else when *refused* states that ours has."""
    output = channel.makefile_stderr("rb").read().decode(errors="replace").strip()
    code = channel.recv_exit_status()
    if code != 0:
        raise XhyveError(f"cannot {what}: {output or f'tar in the guest ended with exit code {code}'}")
    if refused is not None:
        raise XhyveError(f"cannot {what}: {refused}") from refused


def as_path(path: str | os.PathLike[str]) -> Path:
    """*path* on the host, with a leading ``~`` replaced."""
    return Path(path).expanduser()
