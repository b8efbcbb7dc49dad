"""What a test does to a guest's network, disks, clock, CPU and memory while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Unpack

from pytest_xhyve.guest import chaos
from pytest_xhyve.guest.chaos import Chaos
from pytest_xhyve.guest.fault_notes import CABLE, CLOCK, MEMORY, NETWORK
from pytest_xhyve.guest.lans import no_switch
from pytest_xhyve.guest.states import GuestStates
from pytest_xhyve.model.errors import (
    ConfigurationError,
    NotSupported,
    XhyveError,
)
from pytest_xhyve.model.link import Impairment, LinkFaults
from pytest_xhyve.model.values import format_size

if TYPE_CHECKING:
    from datetime import datetime

    from pytest_xhyve.guest.disks import GuestDisk


# A clock that is less than this ahead counts as right.
_RIGHT_SECONDS = 0.5


class GuestFaults(GuestStates):
    """The part of `pytest_xhyve.Guest` that injects faults."""

    def network(
        self,
        *,
        seed: int = 0,
        **faults: Unpack[LinkFaults],
    ) -> None:
        """Make the links to all other guests of the guest's LANs slow or lossy; without a fault, make them good again.

        ``guests.heal()`` ends it, too.

        Args:
            seed: as for `Guests.link`.
            faults: as for `Guests.link`.

        Raises:
            ConfigurationError: a value is invalid.
            NotSupported: the guest is on the common network of its hypervisor.
            XhyveError: the guest is on no LAN, or a switch has died.
        """
        impairment = Impairment.parse(**faults)
        lans = self._instance.lans
        if lans.place is not None and not lans.switches:
            raise NotSupported(no_switch(self.hypervisor.name))
        if not lans.switches:
            raise XhyveError(f"guest {self.name} is on no LAN; guests of xhyve_guests are")
        for switch in lans.switches:
            others = sorted(switch.members - {lans.name})
            ways = [way for other in others for way in ((lans.name, other), (other, lans.name))]
            switch.impair(ways, impairment, seed=seed)
        self._faults.note(NETWORK, str(impairment) or None)

    def link_down(self) -> None:
        """Pull the cables of the guest's LANs: it loses the carrier. SSH, which has a card of its own, stays.

        Raises:
            NotSupported: only QEMU can do that.
            XhyveError: the guest is off, or on no LAN.
        """
        self._set_lan_links(up=False)

    def link_up(self) -> None:
        """Plug the cables of the guest's LANs in again; raises as `link_down` does."""
        self._set_lan_links(up=True)

    def _set_lan_links(self, *, up: bool) -> None:
        lans = self._instance.lans.names
        if not lans:
            raise XhyveError(f"guest {self.name} is on no LAN, so it has no cable to pull")
        vm = self._power.machine
        for number, lan in enumerate(lans):
            vm.set_lan_link(number, up=up)
            self._faults.note(CABLE.format(lan), None if up else "cable pulled")

    @property
    def disks(self) -> tuple[GuestDisk, ...]:
        """The guest's disks, which can be broken and mended: ``guest.disks[0]`` is ``/dev/vda``."""
        from pytest_xhyve.guest.disks import GuestDisk  # noqa: PLC0415

        return tuple(GuestDisk(number, self._block_layer, self._faults) for number in range(len(self._machine.disks)))

    def pause(self) -> None:
        """Pause the guest's CPUs until `resume`.

        Raises:
            NotSupported: the hypervisor cannot pause a guest, as xhyve.
            XhyveError: the guest is off.
        """
        self._power.machine.pause()

    def resume(self, *, clock: Literal["kept", "now"] = "kept") -> None:
        """Resume the CPUs of a paused guest.

        Args:
            clock: ``kept`` leaves the guest's clock behind by the time of the pause, as QEMU does. ``now`` sets it to
                the host's time, as `set_clock` does.

        Raises:
            ConfigurationError: *clock* is neither.
            NotSupported: the hypervisor cannot pause a guest, as xhyve.
            XhyveError: the guest is off, or its clock cannot be set.
        """
        if clock not in ("kept", "now"):
            raise ConfigurationError(f'clock={clock!r} is neither "kept" nor "now"')
        self._power.machine.resume()
        if clock == "now":
            self.set_clock(offset=0.0)

    def set_clock(
        self, *, offset: float | None = None, at: datetime | float | None = None, drift: float | None = None
    ) -> None:
        """Set the guest's clock, within a quarter of a second; the hardware's clock stays as it is.

        A program that sets the clock by NTP undoes it.

        Args:
            offset: the seconds that the clock shall be ahead of the host's; a negative number for behind.
            at: the time that the clock shall show: a `datetime.datetime`, or seconds since the epoch.
            drift: the seconds that the clock gains in each second from now on: a number from -0.1 to 0.1.

        Raises:
            ConfigurationError: an argument is invalid, or none was given.
            XhyveError: the guest is off, or its kernel does not allow that.
        """
        from pytest_xhyve.guest import clock  # noqa: PLC0415
        from pytest_xhyve.guest.root_shell import root_shell  # noqa: PLC0415

        ahead = clock.parse_time(offset, at)
        speed = None if drift is None else clock.parse_drift(drift)
        if ahead is None and speed is None:
            raise ConfigurationError("set_clock() needs offset=, at= or drift=")
        instance = self._instance
        clock.change_clock(root_shell(self, instance.timeouts.step), instance.architecture, ahead, speed)
        parts = [] if ahead is None else [f"{ahead:+.1f} s"]
        parts += [] if speed is None else [f"gains {speed:+g} s each second"]
        is_right = ahead is not None and abs(ahead) < _RIGHT_SECONDS and not speed
        self._faults.note(CLOCK, None if is_right else ", ".join(parts))

    def throttle(self, *, cpu: float | None) -> None:
        """Let the guest run only for a share of the time, until the next call, or until it is switched off.

        All its CPUs and devices stand still for the rest of each twentieth of a second.

        Args:
            cpu: the share, from 0.01 to 1; None for no limit.

        Raises:
            ConfigurationError: *cpu* is not a share.
            NotSupported: the host is not a Linux one.
            XhyveError: the guest is off.
        """
        from pytest_xhyve.guest.throttle import CpuThrottle  # noqa: PLC0415

        pid = self._instance.process.pid
        if not self._power.is_on or pid is None:
            raise XhyveError(f"guest {self.name} is off; start() starts it")
        try:
            throttle = None if cpu is None else CpuThrottle(pid, cpu)
        except ProcessLookupError as error:
            raise XhyveError(f"guest {self.name} has ended; start() starts it again") from error
        self._end_throttle()
        self._throttle = throttle
        self._faults.note("CPU", None if cpu is None else f"runs for {cpu:.0%} of the time")

    def take_memory(self, amount: int | str | None) -> None:
        """Take memory away from the running guest: its programs and its kernel have *amount* less than at first.

        The kernel frees what it needs for that from its caches, and moves programs' memory. It keeps the amount in huge
        pages; programs that use huge pages could take it from there. A restart of the guest ends it.

        Args:
            amount: a size such as ``64M``, in all and not in addition to an earlier call; None gives all back.

        Raises:
            ConfigurationError: *amount* is not a size, or is all that the guest has.
            NotSupported: the guest's kernel has no huge pages.
            XhyveError: the guest is off, or its programs use so much that it cannot spare the amount. It has all its
                memory then.
        """
        from pytest_xhyve.guest import memory  # noqa: PLC0415
        from pytest_xhyve.guest.root_shell import root_shell  # noqa: PLC0415

        taken = memory.parse_amount(amount, self._machine.memory)
        try:
            memory.take(self.name, root_shell(self, self._instance.timeouts.step), taken)
        except XhyveError:
            self._faults.note(MEMORY, None)
            raise
        self._faults.note(MEMORY, f"{format_size(taken)} taken away" if taken else None)

    def chaos(self, *, seed: int, faults: Sequence[str] = chaos.USUAL, every: float = 1.0) -> Chaos:
        """Inject faults in the background for the duration of a ``with`` block, one after the other; heal at its end.

        The report of a failed test lists them. The same seed gives the same series of faults; at which moment of the
        guest's work each begins depends on the host's speed.

        Args:
            seed: chooses the faults.
            faults: the kinds to choose from: ``slow disk``, ``failing disk``, ``slow cpu``, ``pause``, ``wrong clock``.
            every: a fault begins each so many seconds, and ends before the next one.

        Raises:
            ConfigurationError: an argument is invalid.
        """
        series = chaos.plan(seed, faults, every)
        self._faults.note("chaos", f"seed {seed}, {', '.join(faults)}, every {every:g} s")
        return Chaos(f"guest {self.name}", lambda name, random: chaos.FAULTS[name](self, random), series)
