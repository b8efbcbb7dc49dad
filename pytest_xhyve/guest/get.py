"""Copy files and folders out of a guest, which may be hostile."""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO

from pytest_xhyve.formats.tar import DamagedArchive, TarReader
from pytest_xhyve.guest.archive import Allowance, LeftOut, Unpacker
from pytest_xhyve.guest.connection import Connection
from pytest_xhyve.guest.merge import merge
from pytest_xhyve.guest.shell import ShellLine, check_patterns, check_text, quote_path
from pytest_xhyve.guest.streams import Output, failure, running
from pytest_xhyve.model.errors import BootFailed, ConnectionFailed, XhyveError
from pytest_xhyve.model.values import short_repr

_CHUNK = 1 << 17
_MAX_MATCHES = 1000
_GLOB = re.compile(r"([*?\[\]!^]+)")
_CLASSES = re.compile(r"\[!?\]?[^\]]*?\[:.*?:\].*?\]")
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
# A file may have the pattern as its name.
_LIST = """
p={literal}; if [ -e "$p" ] || [ -h "$p" ]; then printf '%s\\000' "$p"; exit; fi
for p in {pattern}; do if [ -e "$p" ] || [ -h "$p" ]; then printf '%s\\000' "$p"; fi; done
"""


@dataclass(frozen=True, slots=True)
class GetOptions:
    """The options of `pytest_xhyve.Guest.get`.

    Attributes:
        as_user: turns a shell script into the line that runs it as the user who reads the files.
        allowance: how many bytes all files may have together.
        exclude: patterns of names, and of paths inside of a folder, that are not copied.
    """

    as_user: Callable[[str], ShellLine]
    allowance: Allowance
    exclude: Sequence[str] = ()


def find(connection: Connection, remote: str, options: GetOptions) -> list[str]:
    """The paths in the guest that match *remote*; if it is not a pattern, only *remote* itself.

    Raises:
        ConfigurationError: an argument is invalid.
        XhyveError: no file matches, or too many do.
    """
    check_patterns(options.exclude)
    if not _GLOB.search(check_text(remote, "remote")):
        return [remote]
    parts = _GLOB.split(remote)
    pattern = "".join(part if number % 2 else quote_path(part) for number, part in enumerate(parts))
    line = _LIST.format(literal=quote_path(remote), pattern=pattern)
    what = f"get {remote}"
    with running(connection, options.as_user(line), what) as (channel, check):
        channel.shutdown_write()
        output = Output(connection, channel, check)
        paths = output.read_items(_MAX_MATCHES + 1)
        if len(paths) > _MAX_MATCHES:
            raise XhyveError(f"cannot {what}: more than {_MAX_MATCHES} files match")
        code, messages = output.result()
    if code != 0:
        raise failure(what, code, messages)
    if not paths:
        raise XhyveError(f"cannot {what}: no file matches")
    for path in paths:
        # A copy gets this name in the caller's folder, where other files are.
        if not may_match(path, remote):
            raise XhyveError(f"cannot {what}: the guest names {short_repr(path)}, which does not match")
    return paths


def may_match(path: str, pattern: str) -> bool:
    """Whether the name of *path* matches the last part of the shell's *pattern* (glob(7))."""
    name, wanted = PurePosixPath(path).name, PurePosixPath(pattern).name
    if name == wanted:
        return True
    if name.startswith(".") and not wanted.startswith("."):
        return False
    # fnmatch knows no [^…], and no [[:class:]].
    return fnmatchcase(name, _CLASSES.sub("?", wanted.replace("[^", "[!")))


def get(connection: Connection, remote: str, local: Path, options: GetOptions) -> tuple[Path, LeftOut]:
    """Copy *remote*, a file or folder, to *local* as ``cp -rH`` does: into it when it is a folder.

    The guest may be hostile. The plugin unpacks what it sends in a new folder, and merges this folder into *local*
    when it is complete.

    Args:
        connection: to the guest.
        remote: a path in the guest; if it is a symbolic link, the link is followed.
        local: a path on the host.
        options: see `GetOptions`.

    Returns:
        the copy, and what was left out: special files, and links that lead out of the copy.

    Raises:
        XhyveError: the guest has no such file, or cannot read it, or sent too much or a damaged archive.
    """
    what = f"get {remote}"
    if local.is_dir():
        local /= name_of(remote)
    local.parent.mkdir(parents=True, exist_ok=True)
    line = options.as_user(_SEND.replace("REMOTE", quote_path(remote)))
    with tempfile.TemporaryDirectory(prefix=".xhyve-", dir=local.parent) as box:
        with running(connection, line, what) as (channel, check):
            channel.shutdown_write()
            output = Output(connection, channel, check)
            try:
                left_out = _receive(output, Path(box), options)
            except (BootFailed, ConnectionFailed, TimeoutError):
                raise
            except (DamagedArchive, XhyveError, OSError) as error:
                raise _explain(what, output, error) from error
            code, messages = output.result()
        top = next(Path(box).iterdir(), None)
        if code != 0 and not (code == 1 and top is not None and _has_changed(messages)):
            raise failure(what, code, messages)
        if top is None:
            raise XhyveError(f"cannot {what}: {'; '.join(left_out.named) or 'the guest sent nothing'}")
        if code != 0:
            left_out.messages = messages
        try:
            merge(top, local)
        except OSError as error:
            raise XhyveError(f"cannot {what}: {error}") from error
        return local, left_out


def name_of(remote: str) -> str:
    """The name of a copy of *remote* in a folder.

    Raises:
        XhyveError: it has no name, or one that leads out of the folder.
    """
    name = PurePosixPath(remote).name
    if name in ("", ".", "..", "~"):
        raise XhyveError(f"cannot get {remote} into a folder: write the path of the copy, with its name")
    return name


def _receive(output: Output, box: Path, options: GetOptions) -> LeftOut:
    """Unpack what the script `_SEND` sends into *box*."""
    with io.BufferedReader(output, _CHUNK) as stream:
        kind, path = (_read_word(stream) for _ in range(2))
        if not kind:
            # The script reports why on standard error.
            return LeftOut()
        source = PurePosixPath(path)
        if kind == "file":
            _write_file(stream, box / "file", options.allowance)
            return LeftOut()
        unpacker = Unpacker(box, [source.name], str(source.parent), options.allowance, options.exclude)
        unpacker.unpack(TarReader(stream.read))
        return unpacker.left_out


def _read_word(stream: IO[bytes]) -> str:
    word = bytearray()
    while (byte := stream.read(1)) not in (b"", b"\0"):
        word += byte
        if len(word) > _CHUNK:
            raise DamagedArchive("it does not begin with a path")
    return os.fsdecode(bytes(word))


def _write_file(stream: IO[bytes], path: Path, allowance: Allowance) -> None:
    with path.open("xb") as file:
        while chunk := stream.read(_CHUNK):
            allowance.take(len(chunk))
            file.write(chunk)


def _explain(what: str, output: Output, error: Exception) -> XhyveError:
    """The error for an archive that could not be unpacked; what tar in the guest reports is the better reason."""
    damaged = isinstance(error, DamagedArchive)
    if damaged and output.read_rest():
        code, messages = output.result()
        if code != 0:
            return failure(what, code, messages)
    return XhyveError(f"cannot {what}: {'the archive that the guest sent is damaged: ' if damaged else ''}{error}")


def _has_changed(messages: str) -> bool:
    """Whether tar ended with code 1 since files changed or vanished while it read them, and not for an error.

    GNU tar uses this code for nothing else. BusyBox uses it for every error.
    """
    lines = messages.splitlines()
    if not any("error exit delayed" in line for line in lines):
        return True
    return all("error exit delayed" in line or line.endswith("No such file or directory") for line in lines)
