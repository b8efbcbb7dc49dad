"""Unpack a guest's tar archive. The guest may be hostile: nothing outside of one new folder is read or written."""

from __future__ import annotations

import errno
import math
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from pytest_xhyve.formats.tar import Kind, Member, TarReader
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.text import printable
from pytest_xhyve.model.values import format_size

# Both are far from what a test fetches; programs that remove or list a deeper tree recurse too deep.
_MAX_MEMBERS = 1_000_000
_MAX_FOLDERS = 100
_NAMED, _SHOWN = 10, 200
# PATH_MAX of Linux.
_MAX_PATH = 4096
# The names and targets of links, which are in memory until the end.
_MAX_NAMES_BYTES = 64 << 20
_ZEROS = bytes(4096)
# A name that this host's file system cannot have, or that two members of the archive share.
_NAME_ERRORS = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EILSEQ)


def is_excluded(path: str, patterns: Sequence[str]) -> bool:
    """Whether *path*, or the name at its end, matches one of the shell *patterns*."""
    return any(fnmatchcase(path, pattern) or fnmatchcase(path.rpartition("/")[2], pattern) for pattern in patterns)


@dataclass(slots=True)
class LeftOut:
    """What was not copied as it is in the guest, and why.

    Attributes:
        count: how many files were left out.
        named: some of them, each with the reason.
        messages: what tar in the guest reports of files that changed or vanished.
    """

    count: int = 0
    named: list[str] = field(default_factory=list)
    messages: str = ""

    def __bool__(self) -> bool:
        return bool(self.count or self.messages)

    def __str__(self) -> str:
        shown = []
        if self.count:
            more = f" and {self.count - len(self.named)} more" if self.count > len(self.named) else ""
            shown.append(f"left out {', '.join(self.named)}{more}")
        if self.messages:
            lines = self.messages.splitlines()
            more = f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
            shown.append(f"files changed during the copy: {'; '.join(map(_short, lines[:_NAMED]))}{more}")
        return "; ".join(shown)

    def add(self, name: str, reason: str) -> None:
        """Add the file *name*."""
        self.count += 1
        if len(self.named) < _NAMED:
            self.named.append(printable(f"{_short(name)} ({_short(reason)})"))


class Allowance:
    """How many bytes one `Guest.get` may bring, also if it copies several files.

    Args:
        limit: the number of bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit

    def take(self, size: int) -> None:
        """Count *size* bytes more.

        Raises:
            XhyveError: all together are more than the limit.
        """
        self._left -= size
        if self._left < 0:
            raise XhyveError(
                f"the guest sends more than {format_size(self._limit)}; to allow more, pass max_size= to get()"
            )


class Unpacker:
    """Unpacks one archive into *box*, a new folder.

    Until the end, there are no symbolic links in the box, so that no member is written through one.

    Args:
        box: a new, empty folder.
        tops: the names of the members that were asked for; all others are left out.
        source: the folder in the guest that the members come from, by which an absolute link into the copy is known.
        allowance: how many bytes all files may have together, holes included.
        exclude: patterns of names, and of paths inside of the top folder, that are not unpacked.
    """

    def __init__(
        self, box: Path, tops: Sequence[str], source: str, allowance: Allowance, exclude: Sequence[str] = ()
    ) -> None:
        self._box = os.fspath(box)
        self._tops = frozenset(tops)
        self._source = source
        self._exclude = exclude
        self._allowance = allowance
        self._names_left = _MAX_NAMES_BYTES
        self._links: dict[str, str] = {}
        self._folders = {""}
        self.left_out = LeftOut()

    def unpack(self, reader: TarReader) -> None:
        """Write all members of *reader*.

        Raises:
            DamagedArchive: it is not a whole archive.
            XhyveError: it is larger than allowed.
            OSError: it cannot be written.
        """
        for number, member in enumerate(reader.members()):
            if number >= _MAX_MEMBERS:
                raise XhyveError(f"the guest sent more than {_MAX_MEMBERS} files")
            self._names_left -= len(member.name) + len(member.link)
            if self._names_left < 0:
                raise XhyveError(f"the names that the guest sent have more than {format_size(_MAX_NAMES_BYTES)}")
            name = posixpath.normpath(member.name)
            reason = self._explain_refusal(name)
            if reason is None:
                if self._is_excluded(name):
                    continue
                try:
                    reason = self._write(name, member, reader)
                except ValueError as error:
                    reason = str(error)
                except OSError as error:
                    reason = _explain_name(error)
            if reason is not None:
                self.left_out.add(member.name, reason)
        while self._links:
            # A link may have become a folder since, for another link in it.
            self._link(*self._links.popitem())

    def _is_excluded(self, name: str) -> bool:
        """Whether *name*, or a folder above it, matches a pattern of those to exclude."""
        if not self._exclude:
            return False
        parts = name.split("/")[1:]
        return any(is_excluded("/".join(parts[: end + 1]), self._exclude) for end in range(len(parts)))

    def _explain_refusal(self, name: str) -> str | None:
        parts = name.split("/")
        if ".." in parts or "" in parts or parts[0] not in self._tops:
            return "not part of what was asked for"
        if len(name) > _MAX_PATH:
            return "its path is too long"
        if len(parts) > _MAX_FOLDERS:
            return f"more than {_MAX_FOLDERS} folders deep"
        if max(len(os.fsencode(part)) for part in parts) > 255:
            return "its name is too long"
        return None

    def _write(self, name: str, member: Member, reader: TarReader) -> str | None:
        """Write *member*; the reason if it was left out."""
        match member.kind:
            case Kind.FOLDER:
                self._make_folder(name)
            case Kind.FILE:
                self._make_folder(posixpath.dirname(name))
                self._write_file(name, member, reader)
            case Kind.SYMBOLIC_LINK:
                target = None if len(member.link) > _MAX_PATH else self._place_inside(name, member.link)
                if target is None:
                    return f"a link to {member.link}"
                self._links[name] = target
            case Kind.HARD_LINK:
                return self._write_hard_link(name, posixpath.normpath(member.link))
            case _:
                return f"a {member.kind.value}"
        return None

    def _make_folder(self, name: str) -> None:
        if name in self._folders:
            return
        parent = posixpath.dirname(name)
        self._make_folder(parent)
        # A path that was a link, and is a folder now.
        self._links.pop(name, None)
        Path(self._box, name).mkdir()
        self._folders.add(name)

    def _write_file(self, name: str, member: Member, reader: TarReader) -> None:
        self._allowance.take(member.size)
        self._links.pop(name, None)
        path = os.path.join(self._box, name)  # noqa: PTH118  # the inner loop of thousands of files
        if os.path.lexists(path):
            os.unlink(path)  # noqa: PTH108
        mode = 0o600 | (member.mode & 0o755 if member.mode & 0o100 else member.mode & 0o644)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb", buffering=0) as file:  # noqa: PTH123
            os.fchmod(file.fileno(), mode)
            for offset, chunk in reader.data():
                if not _is_zero(chunk):
                    file.seek(offset)
                    _write_all(file.fileno(), chunk)
            # Zeros at the end, too, are a hole.
            os.ftruncate(file.fileno(), member.size)
            if math.isfinite(member.modified) and abs(member.modified) < 1 << 33:
                os.utime(file.fileno(), (member.modified, member.modified))

    def _write_hard_link(self, name: str, target: str) -> str | None:
        link = self._links.get(target)
        if link is not None:
            # A second name of a symbolic link, which may be in another folder.
            inside = posixpath.join(posixpath.dirname(target), link)
            placed = self._place_inside(name, posixpath.relpath(inside, posixpath.dirname(name) or "."))
            if placed is None:
                return f"a hard link to {target}"
            self._links[name] = placed
            return None
        if self._explain_refusal(target) is not None or target == name:
            return f"a hard link to {target}"
        self._make_folder(posixpath.dirname(name))
        self._links.pop(name, None)
        try:
            os.link(Path(self._box, target), Path(self._box, name), follow_symlinks=False)
        except (FileNotFoundError, PermissionError):
            # PermissionError: the target is a folder.
            return f"a hard link to {target}"
        return None

    def _place_inside(self, name: str, target: str) -> str | None:
        """Where the symbolic link *name* shall point, which never leads out of its top folder; None if it would.

        The result has no ``..`` behind a name, so that no other link can make it lead outside.
        """
        top = name.split("/", maxsplit=1)[0]
        at = posixpath.dirname(name)
        if not target or "\0" in target or at == "":
            return None
        if target.startswith("/"):
            inside = posixpath.relpath(target, self._source)
        else:
            inside = posixpath.normpath(posixpath.join(at, target))
        if inside.split("/")[0] != top:
            return None
        return posixpath.relpath(inside, at)

    def _link(self, name: str, target: str) -> None:
        path = Path(self._box, name)
        try:
            self._make_folder(posixpath.dirname(name))
            path.symlink_to(target)
        except OSError as error:
            self.left_out.add(name, _explain_name(error))


def _short(text: str) -> str:
    """*text* without its middle if it is long: a path may have 4,096 bytes."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}…{text[-_SHOWN // 2 :]}"


def _explain_name(error: OSError) -> str:
    """Why a file cannot have its name; any other *error* is raised."""
    if error.errno not in _NAME_ERRORS:
        raise error
    return os.strerror(error.errno)


def _is_zero(chunk: bytes) -> bool:
    return chunk.startswith(_ZEROS[: len(chunk)]) and not chunk.strip(b"\0")


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
