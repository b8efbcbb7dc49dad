"""Find the template for a machine, or build it if there is none."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from pytest_xhyve.host.exhaustion import is_exhausted
from pytest_xhyve.host.home import Home, about_room, is_full
from pytest_xhyve.hypervisors.base import Snapshotter
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import BootTimeout, Cancelled, ConnectionFailed, TemplateError, XhyveError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk, DiskSizes, Machine
from pytest_xhyve.templates.differences import find_difference
from pytest_xhyve.templates.identity import AgentState, IdentityError
from pytest_xhyve.templates.key import TemplateKey, as_template, template_key
from pytest_xhyve.templates.rebasing import copy_over, is_over
from pytest_xhyve.templates.store import Template, TemplateDamaged, TemplateStore

# Bytes for a template beside its memory: the state of its devices, and what the guest wrote during its boot.
_OVERHEAD = 256 << 20
# A disk with less free space counts as full.
_FULL = 4 << 20
# Of templates that other hosts made.
_MOST_REPORTED = 3

BuildTemplate = Callable[[Path, Machine], tuple[Sequence[Disk], AgentState]]
"""Builds a template of a machine in a folder; returns its disks, and what the agent in it holds open."""


class TemplateCache:
    """The templates of this user.

    Args:
        home: the cache folder.
        size: the limit of all templates, in bytes; beyond it, the least recently used ones are removed.
        report: gets a line if something takes long or failed.
    """

    def __init__(self, home: Home, size: int, report: Callable[[str], None]) -> None:
        self._checked = home.folder("checked")
        self._folder = home.folder("templates")
        self._store = TemplateStore(self._folder, self._checked)
        self._size = size
        self._report = report
        # Failures of this run. The store remembers only those that the guest caused, so the next run tries the others.
        self._failures: dict[str, str] = {}

    @contextmanager
    def using(
        self,
        image: Image,
        machine: Machine,
        sizes: DiskSizes,
        snapshotter: Snapshotter,
        build: BuildTemplate | None,
    ) -> Iterator[Template]:
        """The template that *machine* can be restored from; no process removes it before the end of the block.

        If several processes need a new template, one builds it while the others wait.

        Args:
            image: the image that the machine's disk is cloned from.
            machine: the machine to restore.
            sizes: the sizes of its disks.
            snapshotter: the snapshotter of its hypervisor.
            build: builds the template if there is none; None if none may be built.

        Raises:
            Cancelled: there is no template, and none may be built.
            BootTimeout, ConnectionFailed: the guest to save did not boot; no guest of this image would.
            TemplateError: the template cannot be built; the message states the reason.
        """
        with ExitStack() as stack:
            try:
                key = template_key(image, machine, sizes, snapshotter, self._checked)
                template = self._find_or_build(stack, key, image, machine, build)
            except OSError as error:
                raise TemplateError(f"cannot use the templates in {self._folder}: {error}") from error
            yield template

    def quarantine(self, template: Template, reason: str) -> None:
        """Do not use *template* again, because no guest can be restored from it.

        The plugin builds a new one for the next guest. If that fails too, it builds no other for an hour.

        Args:
            template: the template that failed.
            reason: what failed, for messages.
        """
        with contextlib.suppress(OSError), self._store.building(template.key, self._report):
            self._store.quarantine(template, reason)

    def _find_or_build(
        self, stack: ExitStack, wanted: TemplateKey, image: Image, machine: Machine, build: BuildTemplate | None
    ) -> Template:
        key = str(wanted)
        template = self._find(stack, key, image)
        if template is None:
            self._check_failure(key)
            if build is None:
                raise Cancelled(f"there is no template of {image.name}")
            with self._store.building(key, self._report):
                template = self._find(stack, key, image)
                if template is None and self._rebase(wanted, image):
                    template = self._find(stack, key, image)
                if template is None:
                    # Another process or thread may have failed to build one in the meantime.
                    self._check_failure(key)
                    self._build(wanted, image, as_template(machine, uuid4()), build)
                    template = self._find(stack, key, image)
                    # The new template is in use by now, so this does not remove it, however small the limit is.
                    self._store.prune(keep=self._size)
        if template is None:
            raise TemplateError(f"the template of {image.name} was removed as soon as it was built")
        return template

    def _check_failure(self, key: str) -> None:
        failure = self._failures.get(key) or self._store.find_failure(key)
        if failure is not None:
            raise TemplateError(failure)

    def _find(self, stack: ExitStack, key: str, image: Image) -> Template | None:
        with ExitStack() as held:
            try:
                template = held.enter_context(self._store.using(key))
            except TemplateDamaged as error:
                self._report(f"the template of {image.name} must be built again: {error}")
                return None
            if template is None or not is_over(template.disks[0], image, self._checked):
                return None
            stack.push(held.pop_all())
            return template

    def _rebase(self, key: TemplateKey, image: Image) -> bool:
        """Whether a template whose base has moved is here, and was put over the disk of *image*.

        The caller has the lock of a build.
        """
        try:
            with self._store.using(str(key)) as template, self._store.workspace(str(key)) as workspace:
                if template is None:
                    return False
                try:
                    disks = copy_over(template, image, workspace)
                    self._store.publish(workspace, str(key), image.name, disks, template.agent, key)
                finally:
                    # Without its image, it is of no use to any guest.
                    self._store.retire(template)
        except (TemplateDamaged, OSError, ValueError) as error:
            self._report(f"the template of {image.name} must be built again: its image has moved, and {error}")
            return False
        return True

    def _report_others(self, key: TemplateKey, image: Image) -> None:
        """Report why the templates of the same machine that other hosts made are of no use here."""
        for template in self._store.saved_elsewhere(key)[:_MOST_REPORTED]:
            assert template.origin is not None
            difference = find_difference(template.origin.host, key.host)
            self._report(f"  not used: the template of {image.name} in {template.folder}, saved with {difference}")

    def _build(self, wanted: TemplateKey, image: Image, machine: Machine, build: BuildTemplate) -> None:
        key = str(wanted)
        free = shutil.disk_usage(self._folder).free
        needed = machine.memory + _OVERHEAD
        if free < needed:
            raise TemplateError(
                f"a template of {image.name} needs {needed >> 20} MiB in {self._folder}, but only {free >> 20} MiB are "
                "free"
            )
        begin = monotonic()
        self._report(f"building a template of {image.name}: this happens once, and takes a little longer than a boot")
        self._report_others(wanted, image)
        try:
            with self._store.workspace(key) as workspace, self._explain_full_disk():
                disks, agent = build(workspace, machine)
                self._store.publish(workspace, key, image.name, disks, agent, wanted)
        except (BootTimeout, ConnectionFailed):
            # If the guest booted from its own clone, it would fail in the same way, after the same wait.
            raise
        except (XhyveError, IdentityError, OSError) as error:
            reason = f"cannot build a template of {image.name}: {error}"
            if isinstance(error, IdentityError):
                self._store.record_failure(key, reason)
            if not is_exhausted(error):
                self._failures[key] = reason
            raise TemplateError(reason) from error
        self._report(f"built the template of {image.name} in {monotonic() - begin:.0f} s")

    @contextmanager
    def _explain_full_disk(self) -> Iterator[None]:
        """Replace an error by one about the disk if the disk is full; the hypervisor's own error does not show that."""
        try:
            yield
        except (XhyveError, IdentityError, OSError) as error:
            if is_full(self._folder, _FULL):
                raise TemplateError(f"no space left for a template\n{about_room(self._folder)}") from error
            raise
