"""The folder of templates: each is published whole, checked before use, and held while a guest stands on it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pytest_xhyve.images.check import digest_of, known_digest, remember_digest
from pytest_xhyve.model.errors import TemplateError
from pytest_xhyve.model.machine import Disk, DiskFormat
from pytest_xhyve.templates.identity import AgentState

ABOUT = "template.json"
_REFUSED = ".refused"
_FAILED = ".failed"
_REFUSED_SECONDS = 3600.0
_LOOK_SECONDS = 1.0


class TemplateDamaged(TemplateError):
    """A template is not what was saved."""


@dataclass(frozen=True, slots=True)
class Template:
    """A saved guest.

    Attributes:
        key: what it is for, as `pytest_xhyve.templates.key` works it out.
        image: the name of its image, for people.
        folder: holds all its files.
        disk: as it was when the guest was saved.
        agent: what the agent in it holds open.
    """

    key: str
    image: str
    folder: Path
    disk: Disk
    agent: AgentState

    @property
    def size(self) -> int:
        """Bytes that it takes on the disk; holes take none."""
        size = 0
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                size += path.stat().st_blocks * 512
        return size

    @property
    def used(self) -> float:
        """When a guest was last restored from it, as `time.time` counts; 0 when it is gone."""
        try:
            return (self.folder / ABOUT).stat().st_mtime
        except FileNotFoundError:
            return 0.0


class TemplateStore:
    """The templates in *folder*.

    Each is a folder of its own, named by its key and a random word: the disks of guests name that of their template by
    its path, where another one must never stand. Without its `ABOUT`, a folder is no template any more.

    Args:
        folder: the user's own.
        checked: the folder of remembered digests.
    """

    def __init__(self, folder: Path, checked: Path) -> None:
        self._folder = folder
        self._checked = checked

    @contextmanager
    def holding(self, key: str) -> Iterator[Template | None]:
        """The template *key*, checked, which nobody removes before the end of the block; None when there is none.

        Raises:
            TemplateDamaged: a file of it is not as it was saved; it is set aside.
        """
        fd = self._open_used(key)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            template = self._read(key)
            if template is not None:
                os.utime(template.folder / ABOUT)
            yield template
        finally:
            os.close(fd)

    @contextmanager
    def making(self, key: str, report: Callable[[str], None]) -> Iterator[None]:
        """Be the only one that makes the template *key*, for the time of the block."""
        lock = FileLock(self._folder / f"{key}.making")
        try:
            lock.acquire(timeout=_LOOK_SECONDS)
        except Timeout:
            report("waiting for another process, which makes the template")
            lock.acquire()
        try:
            self._remove_begun(key)
            yield
        finally:
            lock.release()

    @contextmanager
    def workspace(self, key: str) -> Iterator[Path]:
        """A folder in which the template *key* is made; removed at the end, unless it was published."""
        path = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=self._folder))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def publish(self, workspace: Path, key: str, image: str, disk: Disk, agent: AgentState) -> None:
        """Make what is in *workspace*, which `workspace` made, the template *key*, in one step."""
        digests = {}
        for path in sorted(workspace.iterdir()):
            # The hypervisor opens memory for writing, though it maps it privately.
            path.chmod(0o600)
            digests[path.name] = digest_of(path)
            with path.open("rb") as file:
                os.fsync(file.fileno())
        about = {
            "image": image,
            "disk": [disk.path.name, disk.format],
            "agent": agent.write(),
            "sha256": digests,
        }
        with (workspace / ABOUT).open("w") as file:
            json.dump({**about, "itself": _digest(about)}, file)
            file.flush()
            os.fsync(file.fileno())
        target = self._folder / workspace.name.removeprefix(".")
        workspace.rename(target)
        for name, digest in digests.items():
            remember_digest(target / name, digest, self._checked)
        (self._folder / f"{key}{_REFUSED}").unlink(missing_ok=True)

    def quarantine(self, template: Template, why: str) -> None:
        """Keep *template* from being used again; it stays until no guest stands on it, and there is a new one.

        When another one was set aside within the hour, no more are made until it is over.
        """
        if not (template.folder / ABOUT).exists():
            # Another process met the same.
            return
        failed = self._folder / f"{template.key}{_FAILED}"
        if _is_recent(failed):
            self.record_failure(template.key, why)
        failed.touch()
        _put_aside(template.folder)

    def record_failure(self, key: str, why: str) -> None:
        """Remember for an hour that no template *key* can be made, so that not every guest tries."""
        (self._folder / f"{key}{_REFUSED}").write_text(why)

    def refusal(self, key: str) -> str | None:
        """Why no template *key* can be made, if that was found out within the hour."""
        path = self._folder / f"{key}{_REFUSED}"
        try:
            return path.read_text() if _is_recent(path) else None
        except FileNotFoundError:
            return None

    def all(self) -> list[Template]:
        """All that can be read, the one that was used last first; their content is not checked."""
        found = []
        for path in self._folder.glob(f"*/{ABOUT}"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                if not path.parent.name.startswith("."):
                    found.append(_parse(path.parent, json.loads(path.read_text())))
        return sorted(found, key=lambda template: template.used, reverse=True)

    def prune(self, keep: int = 0) -> list[Template]:
        """Remove templates on which no guest stands, those longest unused first, until *keep* bytes are left.

        Returns:
            those that were removed.
        """
        for folder in self._folder.iterdir():
            if folder.is_dir():
                self._remove_useless(folder)
        templates = self.all()
        size = sum(template.size for template in templates)
        removed = []
        for template in reversed(templates):
            if size <= keep:
                break
            its_size = template.size
            if self._remove(template.folder):
                size -= its_size
                removed.append(template)
        return removed

    def leftovers(self) -> list[Path]:
        """The folders that are no template any more, never became one, or are about to become one."""
        templates = {template.folder for template in self.all()}
        return [path for path in sorted(self._folder.iterdir()) if path.is_dir() and path not in templates]

    def is_in_use(self, folder: Path) -> bool:
        """Whether a guest stands on *folder*, a template or one of those that are `useless`, or somebody makes it."""
        if folder.name.startswith("."):
            try:
                with FileLock(self._folder / f"{folder.name.split('.')[1]}.making", timeout=0):
                    return False
            except Timeout:
                return True
        fd = self._open_used(_key_of(folder))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(fd)

    def remove(self, folder: Path) -> bool:
        """Remove *folder*, a template or one of those that are `useless`, unless it is in use.

        Returns:
            whether it is gone, by us or by another.
        """
        if folder.name.startswith("."):
            self._remove_useless(folder)
        else:
            self._remove(folder)
        return not folder.exists()

    def _open_used(self, key: str) -> int:
        """The file whose lock everybody shares who has a guest that stands on a template *key*."""
        return os.open(self._folder / f"{key}.used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _remove_begun(self, key: str) -> None:
        """Remove what others began; whoever has the lock for making *key* knows that they are dead."""
        for left in self._folder.glob(f".{key}.*"):
            shutil.rmtree(left, ignore_errors=True)

    def _remove_useless(self, folder: Path) -> None:
        """Remove *folder* when it is no template any more, or never became one."""
        if folder.name.startswith("."):
            key = folder.name.split(".")[1]
            with contextlib.suppress(Timeout), FileLock(self._folder / f"{key}.making", timeout=0):
                self._remove_begun(key)
        elif not (folder / ABOUT).exists():
            self._remove(folder)

    def _remove(self, folder: Path) -> bool:
        """Remove *folder*, unless a guest stands on it."""
        fd = self._open_used(_key_of(folder))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # No longer found under its name, before it is incomplete.
            doomed = folder.with_name(f".{folder.name}")
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        except (BlockingIOError, FileNotFoundError):
            return False
        else:
            return True
        finally:
            os.close(fd)

    def _read(self, key: str) -> Template | None:
        # Were there ever two, as after a copy of the folder, each is as good as the other.
        for path in sorted(self._folder.glob(f"{key}.*/{ABOUT}")):
            try:
                return self._check(path)
            except TemplateDamaged:
                _put_aside(path.parent)
                raise
        return None

    def _check(self, path: Path) -> Template:
        folder = path.parent
        try:
            about = json.loads(path.read_text())
            if about.pop("itself") != _digest(about):
                raise TemplateDamaged(f"{path} is not as it was written")
            for name, digest in about["sha256"].items():
                if known_digest(folder / name, self._checked) != digest:
                    raise TemplateDamaged(f"{folder / name} is not as it was saved")
            return _parse(folder, about)
        except FileNotFoundError as error:
            if Path(error.filename).parent != folder:
                raise
            raise TemplateDamaged(f"{error.filename} is missing") from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise TemplateDamaged(f"{path} is not whole: {error}") from error


def _put_aside(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        (folder / ABOUT).rename(folder / f"{ABOUT}.aside")


def _key_of(folder: Path) -> str:
    return folder.name.split(".")[0]


def _is_recent(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < _REFUSED_SECONDS
    except FileNotFoundError:
        return False


def _digest(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _parse(folder: Path, about: dict[str, Any]) -> Template:
    name, disk_format = about["disk"]
    kind: DiskFormat = "qcow2" if disk_format == "qcow2" else "raw"
    disk = Disk(folder / name, kind)
    return Template(_key_of(folder), about["image"], folder, disk, AgentState.read(about["agent"]))
