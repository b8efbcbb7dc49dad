"""Let the guests of a bundle go on: each time as a fresh copy, from the moment at which they were saved."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pytest_xhyve.fleet.bundle import Bundle, explained
from pytest_xhyve.fleet.bundled_image import FoundImage
from pytest_xhyve.fleet.unpacking import check_lower, set_base, unpack
from pytest_xhyve.formats.bundle_file import DamagedBundle
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.lans import NO_LANS, GuestLans
from pytest_xhyve.guest.start import Start
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.guest_folder import CONSOLE
from pytest_xhyve.host.home import about_room
from pytest_xhyve.hypervisors.base import SnapshotMachine, VirtualMachine
from pytest_xhyve.model.errors import ConfigurationError, XhyveError
from pytest_xhyve.model.machine import Disk, Machine
from pytest_xhyve.templates.differences import find_difference
from pytest_xhyve.templates.identity import AgentState, IdentityError, set_clock_and_seed
from pytest_xhyve.templates.login import PASSWORD, fingerprint
from pytest_xhyve.templates.saved_guest import SavedGuest

if TYPE_CHECKING:
    from pytest_xhyve.preparation.run_context import RunContext

_AGENT_SECONDS = 5.0
_PIPE = 1 << 20
_DATE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ResumeOptions:
    """How to resume.

    Attributes:
        image: the manifest of the image, if the user names it.
        key: the private key to log in with; None for the image's.
        frozen_clock: whether the clock stays at the moment of the failure.
        report: gets a line about what is not as it was.
        debugged: the guest, by its folder in the bundle, that stays paused until gdb lets it go on; None for none.
    """

    image: Path | None
    key: Path | None
    frozen_clock: bool
    report: Callable[[str], None]
    debugged: str | None = None


def _do_not_wait() -> None:
    """There are no other guests."""


class Resumption:
    """A saved guest that is being resumed.

    Args:
        bundle: the bundle.
        saved: the guest in it.
        image: its image.
        context: the run.
        options: how to resume.
        lans: the LANs that it is on.
        wait_for_others: called once its memory is loaded, before it runs.
    """

    def __init__(
        self,
        bundle: Bundle,
        saved: SavedGuest,
        image: FoundImage,
        context: RunContext,
        options: ResumeOptions,
        lans: GuestLans = NO_LANS,
        wait_for_others: Callable[[], None] = _do_not_wait,
    ) -> None:
        self.saved = saved
        self.lans = lans
        self._wait_for_others = wait_for_others
        self._bundle = bundle
        self._context = context
        self._options = options
        self._found = _with_key(image, options.key)
        self._reason_to_boot = self._find_reason_to_boot()
        self._agent_answered = False
        self._process: GuardedProcess | None = None
        self.debugger: Path | None = None
        """The socket for gdb; None if the guest is not debugged."""

    @property
    def has_memory(self) -> bool:
        """Whether the guest goes on from its memory; otherwise, it boots from its disk."""
        return not self._reason_to_boot

    @property
    def _is_debugged(self) -> bool:
        return self._options.debugged == self.saved.key

    @property
    def needs_login(self) -> bool:
        """Whether the guest is made ready over SSH: it boots, or has no agent that sets its clock."""
        return not self.has_memory or not (self.saved.agent or self._options.frozen_clock)

    def cancel(self) -> None:
        """End the guest, which another thread starts."""
        if self._process is not None:
            self._process.cancel()

    def check_login(self) -> None:
        """Check that the guest accepts the key that the plugin has.

        Raises:
            ConfigurationError: it accepts another one.
        """
        image, wanted = self._found.image, self.saved.image.login
        if wanted in ("", PASSWORD):
            return
        ours = "" if image.key is None else fingerprint(image.key)
        if ours != wanted:
            raise ConfigurationError(
                f"the saved guest {self.saved.name} accepts the key {wanted} of its user {image.user}; "
                f"{image.key or 'no key'} is {ours or 'not that key'}\n"
                "  name the private key with --key FILE, or use --console, which needs no login"
            )

    @contextmanager
    def running(self) -> Iterator[tuple[GuardedProcess, Instance, Machine]]:
        """Unpack the guest's files in a folder of its own; its process is the guardian's."""
        context = self._context
        with context.guard(self.saved.name, self._found.image) as process:
            self._process = process
            instance = replace(context.instance(self._found.image, process), lans=self.lans)
            with _explain_full_disk(process.folder), explained(self._bundle.path):
                unpack(self._bundle.reader, self.saved.console, process.folder / CONSOLE)
                disks = tuple(self._unpack_disk(number, process.folder) for number in range(len(self.saved.disks)))
            machine = replace(self.saved.machine(), disks=disks, kernel=self._found.kernel, initrd=self._found.initrd)
            yield process, instance, machine

    @contextmanager
    def guest(self) -> Iterator[Guest]:
        """The running guest, reachable over SSH."""
        self.check_login()
        with self.running() as (_, instance, machine):
            guest = Guest(instance, machine)
            guest._boot_or_restore(self.start(instance, machine))
            try:
                if not self._agent_answered and not self._options.frozen_clock and not self._reason_to_boot:
                    self._set_clock_over_ssh(guest)
                for place, fault in self.saved.faults_of_lans() if self.has_memory else ():
                    guest._faults.note(place, fault)
                yield guest
            finally:
                guest._switch_off()

    @contextmanager
    def without_login(self) -> Iterator[GuardedProcess]:
        """The running guest, which may be unable to answer over SSH."""
        with self.running() as (process, instance, machine):
            start = self.start(instance, machine) or Start.boot(instance, machine)
            with start.running() as vm:
                instance.lans.connect(vm)
                start.make_ready(vm)
                instance.lans.link_up(vm)
                self.debugger = vm.serve_debugger() if self._is_debugged else None
                yield process

    def start(self, instance: Instance, machine: Machine) -> Start[VirtualMachine] | None:
        """What lets the guest go on from its memory; None if it has to boot from its disk."""
        if self._reason_to_boot:
            self._options.report(
                f"guest {self.saved.name} boots from its disk, as after a power cut: {self._reason_to_boot}"
            )
            return None

        def make_ready(vm: VirtualMachine) -> None:
            with self._state() as state:
                vm.load_state(state)
            for number in self.saved.pulled_cables():
                vm.set_lan_link(number, up=False)
            self._wait_for_others()
            if self._is_debugged:
                return
            vm.resume()
            if self.saved.agent and not self._options.frozen_clock:
                with suppress(IdentityError, TypeError):
                    agent = AgentState.from_dict(dict(self.saved.agent))
                    set_clock_and_seed(instance.agent(cast("SnapshotMachine", vm), _AGENT_SECONDS), agent)
                    self._agent_answered = True

        has_agent = self.saved.agent is not None
        return Start(
            "restore",
            lambda: instance.snapshotter.start_waiting(machine, instance.process, has_agent=has_agent),
            make_ready,
            self.saved.agent,
        )

    def _find_reason_to_boot(self) -> str:
        """Why the guest's memory cannot be restored here; empty if it can."""
        if not self.saved.has_memory:
            return "its memory was not saved, or it was off"
        hypervisor = self._context.hypervisor_for(self._found.image)
        snapshotter = hypervisor.snapshotter
        if snapshotter is None:
            return f"{hypervisor.info.name} cannot restore memory"
        machine = replace(self.saved.machine(), kernel=self._found.kernel, initrd=self._found.initrd)
        difference = find_difference(self.saved.depends_on, snapshotter.depends_on(machine))
        return difference and f"it was saved with {difference}"

    def _set_clock_over_ssh(self, guest: Guest) -> None:
        """Set the clock of a guest without an agent; its random numbers stay those of the bundle."""
        done = guest.run(["date", "-u", "-s", f"@{time.time():.0f}"], check=False, timeout=_DATE_SECONDS, user="root")
        if done.returncode != 0:
            self._options.report(f"the clock of guest {self.saved.name} stays at the moment of the failure")

    @contextmanager
    def _state(self) -> Iterator[Path]:
        """A file from which the hypervisor reads the guest's memory and devices, once."""
        ours, theirs = os.pipe()
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            # Otherwise, the hypervisor waits for us after each 64 KiB.
            with suppress(PermissionError):
                fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, _PIPE)

        def write() -> None:
            # A hypervisor that exits reports why; a damaged bundle ends the state early.
            with suppress(BrokenPipeError, DamagedBundle), open(theirs, "wb", _PIPE) as target:  # noqa: PTH123
                target.writelines(self._bundle.reader.read(self.saved.state))

        writing = threading.Thread(target=write, name="xhyve-resume", daemon=True)
        writing.start()
        try:
            yield Path(f"/dev/fd/{ours}")
        finally:
            os.close(ours)
            # A hypervisor that did not load it all may live a little longer.
            writing.join(_AGENT_SECONDS)

    def _unpack_disk(self, number: int, folder: Path) -> Disk:
        """Unpack the layers of a disk, each based on the next one, and return the top one."""
        saved = self.saved.disks[number]
        paths = [folder / f"saved{number}.{place}.{kind}" for place, kind in enumerate(saved.layers)]
        bases = [*paths[1:], self._found.image.disk.resolve() if saved.over_image else None]
        for place, (path, kind, base) in enumerate(zip(paths, saved.layers, bases, strict=True)):
            member = self.saved.layer(number, place)
            unpack(self._bundle.reader, member, path)
            if place:
                check_lower(path, kind, member)
            set_base(path, kind, base, member)
        return Disk(paths[0], "qcow2" if saved.layers[0] == "qcow2" else "raw")


def _with_key(found: FoundImage, key: Path | None) -> FoundImage:
    return found if key is None else replace(found, image=replace(found.image, key=key, password=None))


@contextmanager
def _explain_full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise XhyveError(f"cannot unpack the bundle: {error.strerror}\n{about_room(folder)}") from error
