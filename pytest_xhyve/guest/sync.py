"""Bring a folder of the guest up to date with one of the host; only what differs is sent.

Type, size, permission bits and modification time are compared, as rsync's quick check does. For files that this object
has sent before, the host's own stat decides too, which sees each change. The small images have no rsync.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_xhyve.guest.archive import is_excluded
from pytest_xhyve.guest.connection import Connection, supervise
from pytest_xhyve.guest.send import send_archive
from pytest_xhyve.guest.shell import ShellLine, check_patterns, check_text, quote_path
from pytest_xhyve.guest.sparse import SparseFiles
from pytest_xhyve.guest.streams import Input, Output, failure, running
from pytest_xhyve.model.errors import ConfigurationError, XhyveError

_GIT_SECONDS = 60.0
# A file that was changed less than this before it is looked at may be changed again within the same second, which the
# guest's times do not show.
_FRESH_SECONDS = 2.0
_MAX_FILES = 1_000_000
# As stat(1) prints them; a time before 1970 is negative.
_HEXADECIMAL = re.compile(r"[0-9a-f]{1,8}")
_NUMBER = re.compile(r"-?[0-9]{1,19}")
# Prints for each file: type and mode in hexadecimal, size, modification time, path. A file that vanishes is left out.
_LIST = (
    "mkdir -p -- {folder} && cd -- {folder} && find . ! -type d -exec stat -c '%f %s %Y %n' {{}} + | tr '\\n' '\\000'"
)


@dataclass(slots=True)
class Synced:
    """What was sent to the folders of one guest.

    Attributes:
        sent: for each user and remote folder, what the host's stat showed of each file when it was sent.
    """

    sent: dict[tuple[str | None, str], dict[str, tuple[int, ...]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """The options of `pytest_xhyve.Guest.sync`.

    Attributes:
        as_user: turns a shell script into the line that runs it as the user who writes the copy.
        exclude: patterns of names, and of paths inside of the folder, that are not copied.
        gitignore: whether what git ignores is not copied.
        delete: whether files of the guest's folder that the host does not have are removed.
        user: the user who writes the copy; None for the user that the image logs in as.
    """

    as_user: Callable[[str], ShellLine]
    exclude: Sequence[str] = ()
    gitignore: bool = False
    delete: bool = False
    user: str | None = None


def sync(connection: Connection, folder: Path, remote: str, options: SyncOptions, synced: Synced) -> int:
    """See `pytest_xhyve.Guest.sync`; return how many files were sent.

    Raises:
        ConfigurationError: an argument is invalid.
        XhyveError: the guest cannot write the copy.
    """
    remote = check_text(remote, "remote")
    check_patterns(options.exclude)
    if not folder.is_dir():
        raise ConfigurationError(f"sync: {folder} is not a folder; put() copies a file")
    what = f"sync {folder} to {remote}"
    local = dict(_files(folder, options))
    known = synced.sent.setdefault((options.user, remote), {})
    there = _list(connection, remote, what, options)
    now = time.time()
    changed = {path: status for path, status in local.items() if _differs(path, status, there, known, now)}
    if changed:
        _send(connection, folder, remote, sorted(changed), what, options)
    gone = [path for path in there if path not in local and not is_excluded(path, options.exclude)]
    if options.delete and gone:
        _remove(connection, remote, gone, what, options)
    synced.sent[options.user, remote] = {path: _state(status) for path, status in local.items()}
    return len(changed)


def _differs(
    path: str,
    status: os.stat_result,
    there: Mapping[str, tuple[int, int, int]],
    known: Mapping[str, tuple[int, ...]],
    now: float,
) -> bool:
    if stat.S_ISLNK(status.st_mode):
        # What a link leads to is in no listing, and it is small.
        return True
    mode = stat.S_IFMT(status.st_mode) | stat.S_IMODE(status.st_mode)
    if there.get(path) != (mode, status.st_size, int(status.st_mtime)):
        return True
    if path in known:
        return known[path] != _state(status)
    return now - status.st_mtime < _FRESH_SECONDS


def _state(status: os.stat_result) -> tuple[int, ...]:
    """Values that change whenever the file does (stat(2))."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _files(folder: Path, options: SyncOptions) -> Iterator[tuple[str, os.stat_result]]:
    """All files of *folder* but those that are left out: paths inside of it, and what lstat(2) shows."""
    if options.gitignore:
        found: Iterator[str] = iter(_known_to_git(folder))
    else:
        found = _walk(folder, options)
    for path in found:
        try:
            status = (folder / path).lstat()
        except FileNotFoundError:
            # git lists files that were removed but not committed; others may go at any time.
            continue
        if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            parts = path.split("/")
            above = ("/".join(parts[:end]) for end in range(1, len(parts) + 1))
            if not any(is_excluded(each, options.exclude) for each in above):
                yield path, status


def _walk(folder: Path, options: SyncOptions) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        inside = os.path.relpath(parent, folder)
        inside = "" if inside == "." else f"{inside}/"
        # A link to a folder is copied as a link.
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        folders[:] = [
            name for name in folders if name not in links and not is_excluded(f"{inside}{name}", options.exclude)
        ]
        yield from (f"{inside}{name}" for name in [*files, *links])


def _known_to_git(folder: Path) -> list[str]:
    """The files that git tracks, and those that it would offer to add (gitignore(5))."""
    argv = ["git", "-C", str(folder), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(argv, check=False, capture_output=True, timeout=_GIT_SECONDS, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise ConfigurationError("sync: gitignore=True needs git, which is not installed on this host") from error
    except subprocess.TimeoutExpired as error:
        raise XhyveError(f"sync: git did not list {folder} within {_GIT_SECONDS:g} s") from error
    if done.returncode != 0:
        raise ConfigurationError(
            f"sync: gitignore=True, but git cannot list {folder}: {os.fsdecode(done.stderr).strip()}"
        )
    return [os.fsdecode(path) for path in done.stdout.split(b"\0")[:-1]]


def _list(connection: Connection, remote: str, what: str, options: SyncOptions) -> dict[str, tuple[int, int, int]]:
    """The files of the guest's folder: their types and modes, sizes, and modification times in seconds."""
    line = options.as_user(_LIST.format(folder=quote_path(remote)))
    with running(connection, line, what) as (channel, check):
        channel.shutdown_write()
        output = Output(connection, channel, check)
        items = output.read_items(_MAX_FILES)
        code, messages = output.result()
    if code != 0:
        raise failure(what, code, messages)
    return parse_listing(items)


def parse_listing(items: Iterable[str]) -> dict[str, tuple[int, int, int]]:
    """What the guest's stat(1) printed, which is not trusted; other lines count as no file."""
    found = {}
    for item in items:
        mode, _, rest = item.partition(" ")
        size, _, rest = rest.partition(" ")
        changed, _, path = rest.partition(" ")
        # A name with a line break gives lines that are none of these, so the file counts as missing.
        if path.startswith("./") and _HEXADECIMAL.fullmatch(mode) and all(map(_NUMBER.fullmatch, (size, changed))):
            found[path.removeprefix("./")] = (int(mode, 16), int(size), int(changed))
    return found


def _send(
    connection: Connection, folder: Path, remote: str, paths: Sequence[str], what: str, options: SyncOptions
) -> None:
    sparse = SparseFiles(in_archive=False)

    def own(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return sparse.leave_out(member, folder / member.name)

    line = options.as_user(f"tar -C {quote_path(remote)} -xf -")

    def fill(archive: tarfile.TarFile) -> None:
        for path in paths:
            archive.add(folder / path, arcname=path, recursive=False, filter=own)

    send_archive(connection, line, what, fill)
    sparse.send(connection, options.as_user, quote_path(remote), what)


def _remove(connection: Connection, remote: str, paths: Sequence[str], what: str, options: SyncOptions) -> None:
    names = b"".join(os.fsencode(f"./{posixpath.normpath(path)}") + b"\0" for path in paths)
    line = options.as_user(f"cd -- {quote_path(remote)} && xargs -0 rm -f --")
    with running(connection, line, what) as (channel, check):
        supervise(lambda: Input(connection, channel).write(names), check)
        channel.shutdown_write()
        code, messages = Output(connection, channel, check).result()
    if code != 0:
        raise failure(what, code, messages)
