"""The folder of templates. Each template is published in one step, checked before use, and locked while in use."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pytest_xhyve.host.digests import digest_of, known_digest, remember_digest
from pytest_xhyve.host.locks import flock_within, locked, take_lock
from pytest_xhyve.host.vanishing import changed_at
from pytest_xhyve.model.errors import TemplateError
from pytest_xhyve.model.machine import Disk, DiskFormat
from pytest_xhyve.templates.identity import AgentState
from pytest_xhyve.templates.key import TemplateKey

ABOUT = "template.json"
# Files beside the templates, named by their key: why none can be built, and when one was quarantined.
_FAILURE = ".refused"
_QUARANTINED = ".failed"
_FAILURE_SECONDS = 3600.0
# A template is built in about the time of a boot.
_BUILD_SECONDS = 900.0


class TemplateDamaged(TemplateError):
    """A file of a template is missing or was changed."""


@dataclass(frozen=True, slots=True)
class Template:
    """A saved state of a booted guest.

    Attributes:
        key: the result of `pytest_xhyve.templates.key.template_key`.
        image: the name of its image, for people.
        folder: contains all its files.
        disks: the disks in the state in which the guest was saved, the clone of the image's disk first.
        agent: what the agent in the guest holds open.
        origin: what it was saved from; None for one of an earlier version of the plugin.
    """

    key: str
    image: str
    folder: Path
    disks: tuple[Disk, ...]
    agent: AgentState
    origin: TemplateKey | None = None

    @property
    def size(self) -> int:
        """The space that its files take on the disk, in bytes; holes take none."""
        size = 0
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                size += path.stat().st_blocks * 512
        return size

    @property
    def last_used(self) -> float:
        """The time at which a guest was last restored from it, as `time.time` counts; 0 if the template is gone."""
        return changed_at(self.folder / ABOUT)


class TemplateStore:
    """The templates in *folder*.

    Each has a folder of its own, named by its key and a random part. A guest's disk names its template's disk by its
    path, so no other template may ever get that path. A folder without the file `ABOUT` is not a template any more.

    Args:
        folder: a folder that only the user can read.
        checked: the folder of cached digests.
    """

    def __init__(self, folder: Path, checked: Path) -> None:
        self._folder = folder
        self._checked = checked

    @contextmanager
    def using(self, key: str) -> Iterator[Template | None]:
        """The template *key*, checked and locked until the end of the block; None if there is none.

        Raises:
            TemplateDamaged: a file of the template is missing or was changed; the template is quarantined.
        """
        fd = self._open_lock(key)
        try:
            flock_within(fd, fcntl.LOCK_SH)
            template = self._read(key)
            if template is not None:
                os.utime(template.folder / ABOUT)
            yield template
        finally:
            os.close(fd)

    @contextmanager
    def building(self, key: str, report: Callable[[str], None]) -> Iterator[None]:
        """Let no other process or thread build the template *key* until the end of the block.

        Args:
            key: the template's key.
            report: gets a line if this has to wait.
        """
        path = self._folder / f"{key}.making"
        with locked(path, "builds the template", _BUILD_SECONDS, report, TemplateError):
            self._remove_unfinished(key)
            yield

    @contextmanager
    def workspace(self, key: str) -> Iterator[Path]:
        """An empty folder to build the template *key* in; removed at the end of the block, unless it was published."""
        path = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=self._folder))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def publish(
        self,
        workspace: Path,
        key: str,
        image: str,
        disks: Sequence[Disk],
        agent: AgentState,
        origin: TemplateKey | None = None,
    ) -> None:
        """Turn *workspace* into the template *key*, in one step.

        Args:
            workspace: a folder from `workspace`, with all files of the template.
            key: the template's key.
            image: the name of its image.
            disks: its disks, in *workspace*.
            agent: what the agent in the guest holds open.
            origin: what it was saved from.
        """
        digests = {}
        for path in sorted(workspace.iterdir()):
            # The hypervisor opens the memory's file for writing, although it maps it privately.
            path.chmod(0o600)
            digests[path.name] = digest_of(path)
            with path.open("rb") as file:
                os.fsync(file.fileno())
        about = {
            "image": image,
            "disks": [[disk.path.name, disk.format] for disk in disks],
            "agent": agent.to_dict(),
            "sha256": digests,
            "origin": None if origin is None else {"machine": origin.machine, "host": dict(origin.host)},
        }
        with (workspace / ABOUT).open("w") as file:
            json.dump({**about, "itself": _digest(about)}, file)
            file.flush()
            os.fsync(file.fileno())
        target = self._folder / workspace.name.removeprefix(".")
        workspace.rename(target)
        for name, digest in digests.items():
            remember_digest(target / name, digest, self._checked)
        (self._folder / f"{key}{_FAILURE}").unlink(missing_ok=True)

    def retire(self, template: Template) -> None:
        """Do not use *template* again, because another one takes its place; its files stay until no guest uses them."""
        _quarantine(template.folder)

    def quarantine(self, template: Template, reason: str) -> None:
        """Do not use *template* again; its files stay until no guest uses them.

        If another template with this key was quarantined in the last hour, *reason* is recorded as a failure.
        """
        if not (template.folder / ABOUT).exists():
            # Another process has quarantined it.
            return
        quarantined = self._folder / f"{template.key}{_QUARANTINED}"
        if _is_recent(quarantined):
            self.record_failure(template.key, reason)
        quarantined.touch()
        _quarantine(template.folder)

    def record_failure(self, key: str, reason: str) -> None:
        """Record for an hour that no template *key* can be built, so that not every guest tries."""
        (self._folder / f"{key}{_FAILURE}").write_text(reason)

    def find_failure(self, key: str) -> str | None:
        """The reason for which no template *key* can be built; None if none was recorded in the last hour."""
        path = self._folder / f"{key}{_FAILURE}"
        try:
            return path.read_text() if _is_recent(path) else None
        except FileNotFoundError:
            return None

    def all(self) -> list[Template]:
        """All readable templates, the most recently used one first; their files are not checked."""
        found = []
        for path in self._folder.glob(f"*/{ABOUT}"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                if not path.parent.name.startswith("."):
                    found.append(_parse(path.parent, json.loads(path.read_text())))
        return sorted(found, key=lambda template: template.last_used, reverse=True)

    def saved_elsewhere(self, key: TemplateKey) -> list[Template]:
        """The templates of the same machine that another host or another hypervisor saved."""
        return [
            template
            for template in self.all()
            if template.origin is not None and template.origin.machine == key.machine and template.origin != key
        ]

    def prune(self, keep: int = 0) -> list[Template]:
        """Remove templates that no guest uses, the least recently used ones first, and leftovers.

        Args:
            keep: stop when the remaining templates take no more than this many bytes.

        Returns:
            the removed templates.
        """
        for folder in self._folder.iterdir():
            if folder.is_dir():
                self._remove_leftover(folder)
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
        """The folders that are not templates any more or not yet, and those of killed builds."""
        templates = {template.folder for template in self.all()}
        return [path for path in sorted(self._folder.iterdir()) if path.is_dir() and path not in templates]

    def is_in_use(self, folder: Path) -> bool:
        """Whether a guest uses *folder*, a template or one of `leftovers`, or a process builds a template in it."""
        if folder.name.startswith("."):
            try:
                with self._build_lock(folder.name.split(".")[1]):
                    return False
            except Timeout:
                return True
        fd = self._open_lock(_key_of(folder))
        try:
            return not take_lock(fd)
        finally:
            os.close(fd)

    def remove(self, folder: Path) -> bool:
        """Remove *folder*, a template or one of `leftovers`, unless it is in use.

        Returns:
            whether the folder is gone, even if another process removed it.
        """
        if folder.name.startswith("."):
            self._remove_leftover(folder)
        else:
            self._remove(folder)
        return not folder.exists()

    def _build_lock(self, key: str) -> FileLock:
        """The lock of a build, to be taken at once or not at all."""
        return FileLock(self._folder / f"{key}.making", timeout=0)

    def _open_lock(self, key: str) -> int:
        """Open the file that each guest's process locks (shared) while the guest uses a template *key*."""
        return os.open(self._folder / f"{key}.used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _remove_unfinished(self, key: str) -> None:
        """Remove the folders of killed builds of *key*; the caller has the build lock, so no other build runs."""
        for left in self._folder.glob(f".{key}.*"):
            shutil.rmtree(left, ignore_errors=True)

    def _remove_leftover(self, folder: Path) -> None:
        """Remove *folder* if it is not a template any more, or is of a killed build."""
        if folder.name.startswith("."):
            key = folder.name.split(".")[1]
            with contextlib.suppress(Timeout), self._build_lock(key):
                self._remove_unfinished(key)
        elif not (folder / ABOUT).exists():
            self._remove(folder)

    def _remove(self, folder: Path) -> bool:
        """Remove *folder*, unless a guest uses it."""
        fd = self._open_lock(_key_of(folder))
        try:
            if not take_lock(fd):
                return False
            # The folder loses its name first, so that no process finds an incomplete template.
            removed = folder.with_name(f".{folder.name}")
            folder.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)
        except FileNotFoundError:
            return False
        else:
            return True
        finally:
            os.close(fd)

    def _read(self, key: str) -> Template | None:
        # If there are two, for example after a copy of the folder, either will do.
        for path in sorted(self._folder.glob(f"{key}.*/{ABOUT}")):
            try:
                return self._check(path)
            except TemplateDamaged:
                _quarantine(path.parent)
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
            raise TemplateDamaged(f"{path} is incomplete: {error}") from error


def _quarantine(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        (folder / ABOUT).rename(folder / f"{ABOUT}.aside")


def _key_of(folder: Path) -> str:
    return folder.name.split(".")[0]


def _is_recent(path: Path) -> bool:
    # A time in the future is that of a clock that was set back since.
    return 0 <= time.time() - changed_at(path) < _FAILURE_SECONDS


def _digest(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _parse(folder: Path, about: dict[str, Any]) -> Template:
    # An earlier version wrote one disk. No guest is restored from such a template, but listings and `prune` find it.
    written = about["disks"] if "disks" in about else [about["disk"]]
    disks = tuple(_disk(folder / name, disk_format) for name, disk_format in written)
    origin = about.get("origin")
    saved_from = None if origin is None else TemplateKey(origin["machine"], dict(origin["host"]))
    return Template(_key_of(folder), about["image"], folder, disks, AgentState.from_dict(about["agent"]), saved_from)


def _disk(path: Path, disk_format: str) -> Disk:
    kind: DiskFormat = "qcow2" if disk_format == "qcow2" else "raw"
    return Disk(path, kind)
