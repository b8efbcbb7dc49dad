"""Copy files, folders and contents into a guest.

A tar archive goes through the SSH connection, since small guests have no SFTP server.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast

from pytest_xhyve.guest.archive import is_excluded
from pytest_xhyve.guest.connection import Connection
from pytest_xhyve.guest.send import feed, write_archive
from pytest_xhyve.guest.shell import ShellLine, check_patterns, check_text, quote_path
from pytest_xhyve.guest.sparse import PROBE, SparseFiles
from pytest_xhyve.guest.streams import Output, failure, running
from pytest_xhyve.model.errors import ConfigurationError, XhyveError
from pytest_xhyve.model.values import short_repr

Source = str | os.PathLike[str] | bytes | IO[bytes] | IO[str]
"""What is copied: a path on the host, or contents."""

_CHUNK = 1 << 17
_MODE = 0o644
_OWNER = re.compile(r"([A-Za-z0-9_.][A-Za-z0-9_.$-]*)(?::([A-Za-z0-9_.][A-Za-z0-9_.$-]*))?")
# Of 32 bits, as owners have in Linux.
_NUMBER = re.compile(r"[0-9]{1,10}")
# Prints the folder and the name of the copy, and the numbers of its owner and group. Then it unpacks the archive, which
# is written with them. tar ignores the owner unless root runs it.
_UNPACK = """
t={target} n={name}
if [ {is_folder} = 1 ] || [ -d "$t" ]; then
    [ -n "$n" ] || {{ echo "it is a folder: name a file in it" >&2; exit 1; }}
    d=$t
else
    d=$(dirname -- "$t") n=$(basename -- "$t")
fi
u={owner} g={group}
if [ -z "$u" ]; then
    u=0 g=0
elif [ "$(id -u)" != 0 ]; then
    echo 'only root can set an owner: pass user="root"' >&2; exit 1
fi
mkdir -p -- "$d" || exit
case $u in *[!0-9]*)
    g=${{g:-$(id -g "$u")}} && u=$(id -u "$u") || exit ;;
esac
case $g in *[!0-9]*)
    l=$(getent group "$g" 2>/dev/null || grep "^$g:" /etc/group) || {{ echo "unknown group $g" >&2; exit 1; }}
    g=${{l#*:}} g=${{g#*:}} g=${{g%%:*}} ;;
esac
printf '%s\\000' "$d" "$n" "$u" "$g" "$({probe})"
{umask}exec tar -C "$d" -xf -
"""
_CONTENT = "/."


@dataclass(frozen=True, slots=True)
class PutOptions:
    """The options of `pytest_xhyve.Guest.put`.

    Attributes:
        as_user: turns a shell script into the line that runs it as the user who writes the copy.
        owner: ``NAME`` or ``NAME:GROUP``, or numbers; None for the user who writes the copy.
        mode: the permission bits of each file; None for those of the source.
        exclude: patterns of names, and of paths inside of a folder, that are not copied.
    """

    as_user: Callable[[str], ShellLine]
    owner: str | None = None
    mode: int | None = None
    exclude: Sequence[str] = ()


def put(connection: Connection, source: Source, remote: str, options: PutOptions) -> None:
    """See `pytest_xhyve.Guest.put`.

    Raises:
        FileNotFoundError: *source* is a path that does not exist.
        ConfigurationError: an argument is invalid.
        XhyveError: the guest cannot write the copy.
    """
    remote = check_text(remote, "remote")
    check_patterns(options.exclude)
    contents = _open_contents(source)
    if contents is not None:
        with contents:
            _copy(connection, contents, "", f"put contents to {remote}", remote, options)
        return
    text = os.fspath(cast("str | os.PathLike[str]", source))
    local = Path(text).expanduser()
    # A link that the caller names is followed, as `cp -H` does.
    real = local.resolve(strict=True)
    what = f"put {text if text.endswith(_CONTENT) else local} to {remote}"
    if text.endswith(_CONTENT):
        if not real.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), text)
        _copy(connection, real, ".", what, f"{remote}/", options)
        return
    name = real.name if local.name in ("", "..") else local.name
    _copy(connection, real, name, what, remote, options)


def _copy(
    connection: Connection, source: Path | IO[bytes], name: str, what: str, remote: str, options: PutOptions
) -> None:
    line = options.as_user(_script(remote, name, options))
    with running(connection, line, what) as (channel, check):
        output = Output(connection, channel, check)
        items = output.read_items(5)
        if len(items) != 5 or not all(_NUMBER.fullmatch(item) for item in items[2:4]):
            channel.shutdown_write()
            code, messages = output.result()
            raise failure(what, code, messages) if code else XhyveError(f"cannot {what}: the guest sent no path")
        folder, name, owner, group = items[0], items[1], int(items[2]), int(items[3])
        sparse = SparseFiles(in_archive=bool(items[4]))

        def change(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
            inside = member.name.partition("/")[2]
            if inside and is_excluded(inside, options.exclude):
                return None
            member.uid, member.gid = owner, group
            member.uname = member.gname = ""
            if options.mode is not None and member.isfile():
                member.mode = options.mode
            if not isinstance(source, Path):
                return member
            return sparse.leave_out(member, source / inside if inside else source)

        def fill(archive: tarfile.TarFile) -> None:
            if not isinstance(source, Path):
                archive.addfile(cast(tarfile.TarInfo, change(_describe(source, name))), source)
                return
            if name == ".":
                # The folder itself stays as it is in the guest.
                for path in sorted(source.iterdir()):
                    archive.add(path, arcname=f"./{path.name}", filter=change)
            else:
                archive.add(source, arcname=name, filter=change)
                # Raises if it was removed meanwhile. The archive leaves out what is removed inside of it.
                source.lstat()
            sparse.add(archive)

        feed(connection, channel, output, check, what, partial(write_archive, fill))
    sparse.send(connection, options.as_user, shlex.quote(folder), what)


def _script(remote: str, name: str, options: PutOptions) -> str:
    """The shell script that makes the folder for the copy and unpacks the archive in it."""
    owner, group = _parse_owner(options.owner)
    if options.mode is not None and not (type(options.mode) is int and 0 <= options.mode <= 0o7777):
        raise ConfigurationError(f"mode={short_repr(options.mode)} is not a number of permission bits, such as 0o644")
    return _UNPACK.format(
        target=quote_path(remote),
        name=shlex.quote(name),
        is_folder=1 if remote.endswith("/") else 0,
        owner=shlex.quote(owner),
        group=shlex.quote(group),
        probe=PROBE,
        # The umask applies if the user is not root.
        umask="" if options.mode is None else "umask 0; ",
    )


def _parse_owner(owner: str | None) -> tuple[str, str]:
    """The owner's name and group. The group is empty if it is that of the owner, and both are without an owner."""
    if owner is None:
        return "", ""
    match = _OWNER.fullmatch(owner) if isinstance(owner, str) else None
    if match is None:
        raise ConfigurationError(f"owner={short_repr(owner)} is not NAME or NAME:GROUP")
    # A number may be that of no user, who has no group.
    return match[1], match[2] or (match[1] if match[1].isdigit() else "")


def _open_contents(source: object) -> IO[bytes] | None:
    """The contents *source* as a file that can seek; None if it is a path.

    Raises:
        ConfigurationError: it is neither a path nor contents.
    """
    if isinstance(source, str | os.PathLike):
        return None
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if not hasattr(source, "read"):
        raise ConfigurationError(f"{short_repr(source)} is not a path, bytes, or a file object")
    # In the archive, a file's size precedes its contents.
    with ExitStack() as stack:
        spool = stack.enter_context(tempfile.TemporaryFile())
        while chunk := source.read(_CHUNK):
            spool.write(chunk.encode() if isinstance(chunk, str) else chunk)
        stack.pop_all()
        return spool


def _describe(contents: IO[bytes], name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = contents.seek(0, os.SEEK_END)
    contents.seek(0)
    member.mode, member.mtime = _MODE, int(time.time())
    return member
