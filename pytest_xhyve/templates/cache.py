"""Finding the template for a machine, and making it when there is none."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.base import Snapshotter
from pytest_xhyve.model.errors import BootTimeout, Cancelled, ConnectionFailed, TemplateError, XhyveError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk, Machine
from pytest_xhyve.templates.identity import AgentState, IdentityError
from pytest_xhyve.templates.key import as_template, template_key
from pytest_xhyve.templates.store import Template, TemplateDamaged, TemplateStore

# What a template takes beside its memory: the state of its devices, and what the guest wrote while it booted.
_ROOM = 256 << 20
_FULL = 4 << 20

BuildTemplate = Callable[[Path, Machine], tuple[Disk, AgentState]]
"""Makes a template of a machine in a folder."""


class TemplateCache:
    """The templates of this user.

    Args:
        home: the plugin's folder.
        size: bytes that they may take; beyond it, those that were not used for longest are removed.
        report: gets a line when something takes long, or was wrong.
    """

    def __init__(self, home: Home, size: int, report: Callable[[str], None]) -> None:
        self._checked = home.folder("checked")
        self._folder = home.folder("templates")
        self._store = TemplateStore(self._folder, self._checked)
        self._size = size
        self._report = report
        # What went wrong with the host rather than with the guest is tried again by the next run.
        self._failed: dict[str, str] = {}

    @contextmanager
    def using(
        self, image: Image, machine: Machine, snapshotter: Snapshotter, build: BuildTemplate | None
    ) -> Iterator[Template]:
        """The template that *machine* can be restored from, which nobody removes before the end of the block.

        One process makes it while all others wait.

        Args:
            image: what the machine's disk is cloned from.
            machine: what shall be restored.
            snapshotter: its hypervisor's.
            build: builds the template, when there is none; None where no test waits for it.

        Raises:
            Cancelled: there is none, and none is made here.
            BootTimeout, ConnectionFailed: the guest that was to be saved did not come up, and none would.
            TemplateError: it cannot be made; the message says why.
        """
        with ExitStack() as stack:
            try:
                template = self._find_or_make(stack, image, machine, snapshotter, build)
            except OSError as error:
                raise TemplateError(f"the templates in {self._folder} cannot be used: {error}") from error
            yield template

    def failed(self, template: Template, why: str) -> None:
        """Put away a template that a guest could not be restored from.

        The next guest makes a new one. When that fails too, no other is made for an hour.
        """
        with contextlib.suppress(OSError), self._store.making(template.key, self._report):
            self._store.quarantine(template, why)

    def _find_or_make(
        self, stack: ExitStack, image: Image, machine: Machine, snapshotter: Snapshotter, build: BuildTemplate | None
    ) -> Template:
        key = template_key(image, machine, snapshotter, self._checked)
        template = self._find(stack, key, image)
        if template is None:
            self._check_refusal(key)
            if build is None:
                raise Cancelled(f"there is no template of {image.name}")
            with self._store.making(key, self._report):
                template = self._find(stack, key, image)
                if template is None:
                    # Whoever made one while we waited may have found out that there can be none.
                    self._check_refusal(key)
                    self._make(key, image, as_template(machine, uuid4()), build)
                    template = self._find(stack, key, image)
                    # Held by now, so that it is none of those that are removed, however small the limit.
                    self._store.prune(keep=self._size)
        if template is None:
            raise TemplateError(f"the template of {image.name} was removed as soon as it was made")
        return template

    def _check_refusal(self, key: str) -> None:
        refusal = self._failed.get(key) or self._store.refusal(key)
        if refusal is not None:
            raise TemplateError(refusal)

    def _find(self, stack: ExitStack, key: str, image: Image) -> Template | None:
        with ExitStack() as held:
            try:
                template = held.enter_context(self._store.holding(key))
            except TemplateDamaged as error:
                self._report(f"the template of {image.name} is made anew: {error}")
                return None
            if template is not None:
                stack.push(held.pop_all())
            return template

    def _make(self, key: str, image: Image, machine: Machine, build: BuildTemplate) -> None:
        free = shutil.disk_usage(self._folder).free
        needed = machine.memory + _ROOM
        if free < needed:
            raise TemplateError(
                f"a template of {image.name} needs {needed >> 20} MiB in {self._folder}, and {free >> 20} MiB are free"
            )
        begin = time.monotonic()
        self._report(f"making a template of {image.name}: this is done once, and takes a little longer than a boot")
        try:
            with self._store.workspace(key) as workspace, self._telling_when_full():
                disk, prepared = build(workspace, machine)
                self._store.publish(workspace, key, image.name, disk, prepared)
        except (BootTimeout, ConnectionFailed):
            # A guest that boots would do the same, after as long a wait.
            raise
        except (XhyveError, IdentityError, OSError) as error:
            why = f"no template of {image.name} can be made: {error}"
            if isinstance(error, IdentityError):
                self._store.record_failure(key, why)
            self._failed[key] = why
            raise TemplateError(why) from error
        self._report(f"made the template of {image.name} in {time.monotonic() - begin:.0f} s")

    @contextmanager
    def _telling_when_full(self) -> Iterator[None]:
        """Put want of space in the place of what fails for it: a hypervisor whose memory has no room just dies."""
        try:
            yield
        except (XhyveError, IdentityError, OSError) as error:
            free = shutil.disk_usage(self._folder).free
            if free < _FULL:
                raise TemplateError(f"{self._folder} is full: {free >> 10} KiB are free") from error
            raise
