"""The fleet: clones, starts and hands out guests, and takes them all back."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from pytest_xhyve import runs
from pytest_xhyve.errors import NoFreeSlot
from pytest_xhyve.guardian import Guardian
from pytest_xhyve.guest import Guest
from pytest_xhyve.home import Home
from pytest_xhyve.hypervisors.base import Facts, Hypervisor, Identity
from pytest_xhyve.hypervisors.choice import choose
from pytest_xhyve.images.catalog import Catalog
from pytest_xhyve.images.check import check_image
from pytest_xhyve.images.clone import clone_disk
from pytest_xhyve.images.manifest import Image
from pytest_xhyve.machine import Disk, Machine, Nic
from pytest_xhyve.power import Timeouts
from pytest_xhyve.settings import EMULATION_FACTOR, Settings
from pytest_xhyve.slots import Slot, Slots
from pytest_xhyve.spec import GuestSpec

_SHUTDOWN_SECONDS = 60.0
_STEP_SECONDS = 30.0
_REFUSAL_SECONDS = 10.0
_SLOT_SECONDS = 600.0

# What a guest of the default size costs the host, with the hypervisor's own share.
_GUEST_BYTES = 640 << 20
_SHARE_OF_MEMORY = 0.75

MachineHook = Callable[[Machine], Machine]


class Fleet:
    """All guests of one process.

    Nothing is looked for and no process is started before the first guest is asked for. Safe to use from several
    threads.

    Args:
        settings: what was asked for.
        home: the plugin's folder.
        report: gets a line when something takes long.
    """

    def __init__(self, settings: Settings, home: Home, report: Callable[[str], None]) -> None:
        self._settings = settings
        self._home = home
        self._report = report
        self._stack = ExitStack()
        self._lock = threading.RLock()
        self._guardian: Guardian | None = None
        self._run: tuple[Path, int] | None = None
        self._own_slots: set[int] = set()
        self._guests: set[Guest] = set()
        self.catalog = Catalog(home, report)

    def close(self) -> None:
        """Take away whatever is left, and wait until nothing runs any more."""
        with ExitStack() as stack:
            stack.push(self._stack.pop_all())
            for guest in list(self._guests):
                stack.callback(guest.remove)

    @cached_property
    def hypervisor(self) -> Hypervisor:
        """The hypervisor that was asked for, or the first that works here.

        Raises:
            HypervisorNotFound: there is none.
        """
        return choose(self._settings, self._home, self._report)

    @cached_property
    def max_guests(self) -> int:
        """How many guests may be alive at once, over all processes of this user."""
        most = self.hypervisor.most_guests
        if self._settings.max_guests is not None:
            return min(self._settings.max_guests, most)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return max(1, min(most, int(memory * _SHARE_OF_MEMORY / _GUEST_BYTES)))

    def start_guest(self, spec: GuestSpec, *, change: MachineHook = lambda machine: machine) -> Guest:
        """A running guest, which lives until it is removed or the fleet is closed.

        Args:
            spec: what it is made of.
            change: gets the machine before it starts, and returns what shall be started.

        Raises:
            XhyveError: in one of its kinds.
        """
        asked = time.monotonic()
        image = self.catalog.find(spec.image if spec.image is not None else self._settings.images[0])
        check_image(image, self._home.folder("checked"))
        hypervisor = self.hypervisor
        timeouts = self._timeouts(hypervisor.facts)
        with ExitStack() as stack:
            begin = time.monotonic()
            guardian, run_folder = self._take_guardian()
            slot = self._take_slot(stack)
            name = spec.name or f"{_as_name(image.name)}-{slot.number}"
            about = {
                "name": name,
                "image": image.name,
                "image_disk": str(image.disk),
                "owner": os.getpid(),
            }
            ward = stack.enter_context(guardian.ward(run_folder / name, [slot.fd], about))
            disk = clone_disk(Disk(image.disk, image.format), ward.folder, hypervisor.disk_formats)
            identity = hypervisor.identify(slot.uuids())
            machine = change(self._machine(spec, image, identity, name, disk))
            guest = Guest(
                image=image,
                machine=machine,
                running=lambda: hypervisor.running(machine, ward),
                timeouts=timeouts,
                phases={"image": begin - asked, "clone": time.monotonic() - begin},
            )
            self._guests.add(guest)
            stack.callback(self._guests.discard, guest)
            stack.callback(guest.kill)
            guest.start()
            guest.owned_by(stack.pop_all())
        return guest

    def _machine(self, spec: GuestSpec, image: Image, identity: Identity, name: str, disk: Disk) -> Machine:
        settings = self._settings
        return Machine(
            name=name,
            uuid=identity.uuid,
            cpus=spec.cpus or settings.cpus or image.cpus,
            cpu=image.cpu,
            memory=spec.memory or settings.memory or image.memory,
            disks=(disk,),
            nics=(Nic(identity.mac),),
            kernel=image.kernel,
            initrd=image.initrd,
            # Both are read by systemd (kernel-command-line(7)), and by the init of our own small image.
            cmdline=f"{image.cmdline} systemd.hostname={name} systemd.machine_id={identity.uuid.hex}",
        )

    def _timeouts(self, facts: Facts) -> Timeouts:
        factor = self._settings.timeout_factor * (EMULATION_FACTOR if facts.emulated else 1)
        return Timeouts(
            boot=self._settings.boot_timeout * factor,
            shutdown=_SHUTDOWN_SECONDS * factor,
            step=_STEP_SECONDS * factor,
            refusal=_REFUSAL_SECONDS * factor,
            why=f"emulated: {facts.reason}" if facts.emulated else "",
        )

    def _take_slot(self, stack: ExitStack) -> Slot:
        slots = Slots(self._home.folder("slots"), self.max_guests)

        def take(timeout: float) -> Slot:
            return slots.take(timeout=timeout, give_up=lambda: len(self._own_slots) >= self.max_guests)

        try:
            slot = take(0)
        except NoFreeSlot:
            self._report(f"waiting: {self.max_guests} guests are alive, and no more may be (--xhyve-max-guests)")
            slot = take(_SLOT_SECONDS * self._settings.timeout_factor)
        self._own_slots.add(slot.number)
        stack.callback(self._own_slots.discard, slot.number)
        return slot

    def _take_guardian(self) -> tuple[Guardian, Path]:
        """The run's guardian and its folder; the first call starts it, after what dead runs left was removed."""
        with self._lock:
            folder = self._home.folder("runs")
            if self._run is None:
                runs.reap(folder)
                self._run = self._stack.enter_context(runs.new_run(folder))
            run_folder, lock = self._run
            if self._guardian is None or not self._guardian.is_alive():
                run_folder.mkdir(mode=0o700, exist_ok=True)
                if self._guardian is not None:
                    # Where the kernel does not end them with it, as on macOS, its guests run on.
                    runs.kill_hypervisors_of(run_folder)
                self._guardian = Guardian(run_folder, lock)
                self._stack.callback(self._guardian.close)
            return self._guardian, run_folder


def _as_name(text: str) -> str:
    """*text* with only what a host name may have."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:48] or "guest"
