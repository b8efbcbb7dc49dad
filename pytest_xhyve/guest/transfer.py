"""Copy files and folders between host and guest.

A tar archive goes through the SSH connection, since small guests have no SFTP server.
"""

from __future__ import annotations

import io
import os
import shlex
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import paramiko

from pytest_xhyve.formats.tar import DamagedArchive, TarReader
from pytest_xhyve.guest.archive import LeftOut, Unpacker, too_much
from pytest_xhyve.guest.connection import Connection, supervise
from pytest_xhyve.guest.merge import merge
from pytest_xhyve.guest.streams import Input, Output
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import BootFailed, ConnectionFailed, XhyveError

_CHUNK = 1 << 17
# readlink follows what is named, as `cp -H` does. A file of /proc or /sys has no size, so that tar copies nothing.
# In the archive of a folder, such files would be empty or padded with zeros.
_SEND = """path=$(readlink -f -- REMOTE) || path=REMOTE
[ -e "$path" ] || [ -h "$path" ] || { echo "no such file or folder" >&2; exit 1; }
case $path in
/proc/*|/sys/*)
    [ ! -d "$path" ] || { echo "files in /proc and /sys have no size: fetch each one, or run cat" >&2; exit 1; }
    printf 'file\\000%s\\000' "$path" && exec cat -- "$path" ;;
esac
cd "$(dirname -- "$path")" || exit
printf 'tar\\000%s\\000' "$path"
sparse=; case $(tar --version 2>/dev/null) in *GNU*) sparse=-S ;; esac
exec tar -c $sparse -f - -- "$(basename -- "$path")"
"""


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
    with _command(connection, f"mkdir -p {folder} && tar -C {folder} -xf -", what) as (channel, check):

        def send() -> None:
            with tarfile.open(
                fileobj=cast(Any, Input(channel)), mode="w|", format=tarfile.GNU_FORMAT, bufsize=_CHUNK
            ) as archive:
                archive.add(local, arcname=target.name, filter=_owned_by_the_login)

        refused: OSError | None = None
        try:
            supervise(send, check)
        except TimeoutError:
            raise
        except OSError as error:
            refused = error
        channel.shutdown_write()
        code, messages = Output(connection, channel, check).result()
        if code != 0:
            raise _tar_error(what, code, messages)
        if refused is not None:
            raise XhyveError(f"cannot {what}: {refused}") from refused


def get(connection: Connection, remote: str, local: Path, *, most: int) -> tuple[Path, LeftOut]:
    """Copy *remote*, a file or folder, to *local* as ``cp -rH`` does: into it when it is a folder.

    The guest may be hostile. The plugin unpacks what it sends in a new folder, and merges this folder into *local*
    when it is complete.

    Args:
        connection: to the guest.
        remote: a path in the guest; if it is a symbolic link, the link is followed.
        local: a path on the host.
        most: how many bytes all files may have together.

    Returns:
        the copy, and what was left out: special files, and links that lead out of the copy.

    Raises:
        XhyveError: the guest has no such file, or cannot read it, or sent too much or a damaged archive.
    """
    what = f"get {remote}"
    if local.is_dir():
        local /= PurePosixPath(remote).name
    local.parent.mkdir(parents=True, exist_ok=True)
    line = _SEND.replace("REMOTE", shlex.quote(remote))
    with tempfile.TemporaryDirectory(prefix=".xhyve-", dir=local.parent) as box:
        with _command(connection, line, what) as (channel, check):
            channel.shutdown_write()
            output = Output(connection, channel, check)
            try:
                left_out = _receive(output, Path(box), most)
            except (BootFailed, ConnectionFailed, TimeoutError):
                raise
            except (DamagedArchive, XhyveError, OSError) as error:
                raise _explain(what, output, error) from error
            code, messages = output.result()
        top = next(Path(box).iterdir(), None)
        if code != 0 and not (code == 1 and top is not None and _has_changed(messages)):
            raise _tar_error(what, code, messages)
        if top is None:
            raise XhyveError(f"cannot {what}: {'; '.join(left_out.named) or 'the guest sent nothing'}")
        if code != 0:
            left_out.messages = messages
        try:
            merge(top, local)
        except OSError as error:
            raise XhyveError(f"cannot {what}: {error}") from error
        return local, left_out


def _receive(output: Output, box: Path, most: int) -> LeftOut:
    """Unpack what the script `_SEND` sends into *box*."""
    with io.BufferedReader(output, _CHUNK) as stream:
        kind, path = (_read_word(stream) for _ in range(2))
        if not kind:
            # The script reports why on standard error.
            return LeftOut()
        source = PurePosixPath(path)
        if kind == "file":
            _write_file(stream, box / "file", most)
            return LeftOut()
        unpacker = Unpacker(box, [source.name], str(source.parent), most)
        unpacker.unpack(TarReader(stream.read))
        return unpacker.left_out


def _read_word(stream: IO[bytes]) -> str:
    word = bytearray()
    while (byte := stream.read(1)) not in (b"", b"\0"):
        word += byte
        if len(word) > _CHUNK:
            raise DamagedArchive("it does not begin with a path")
    return os.fsdecode(bytes(word))


def _write_file(stream: IO[bytes], path: Path, limit: int) -> None:
    left = limit
    with path.open("xb") as file:
        while chunk := stream.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise too_much(limit)
            file.write(chunk)


def _explain(what: str, output: Output, error: Exception) -> XhyveError:
    """The error for an archive that could not be unpacked; what tar in the guest reports is the better reason."""
    damaged = isinstance(error, DamagedArchive)
    if damaged and output.read_rest():
        code, messages = output.result()
        if code != 0:
            return _tar_error(what, code, messages)
    return XhyveError(f"cannot {what}: {'the archive that the guest sent is damaged: ' if damaged else ''}{error}")


def _tar_error(what: str, code: int, messages: str) -> XhyveError:
    return XhyveError(f"cannot {what}: {messages or f'tar in the guest failed with exit code {code}'}")


def _has_changed(messages: str) -> bool:
    """Whether tar ended with code 1 since files changed or vanished while it read them, and not for an error.

    GNU tar uses this code for nothing else. BusyBox uses it for every error.
    """
    lines = messages.splitlines()
    if not any("error exit delayed" in line for line in lines):
        return True
    return all("error exit delayed" in line or line.endswith("No such file or directory") for line in lines)


@contextmanager
def _command(connection: Connection, line: str, what: str) -> Iterator[tuple[paramiko.Channel, Callable[[], None]]]:
    """A channel on which *line* runs, and the check for each wait.

    Raises:
        BootFailed: the guest has stopped, so that *what* failed.
        ConnectionFailed: the guest does not answer, or the connection was lost.
        XhyveError: the guest answers, but the command does not go on.
    """
    check = connection.checker(what)
    stalled = f"cannot {what}: the guest answers, but neither sent nor took data for {connection.stall:g} s"
    channel = connection.begin(line, what, check, monotonic() + connection.stall)
    if channel is None:
        raise XhyveError(stalled)
    try:
        with channel:
            channel.settimeout(connection.stall)
            yield channel, check
    except TimeoutError as error:
        raise XhyveError(stalled) from error
    except (paramiko.SSHException, EOFError) as error:
        raise connection.lost(what, error) from error


def _is_folder(connection: Connection, remote: str) -> bool:
    with _command(connection, f"test -d {shlex.quote(remote)}", f"look at {remote}") as (channel, check):
        code, _ = Output(connection, channel, check).result()
        return code == 0


def _owned_by_the_login(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def as_path(path: str | os.PathLike[str]) -> Path:
    """*path* on the host, with a leading ``~`` replaced."""
    return Path(path).expanduser()
