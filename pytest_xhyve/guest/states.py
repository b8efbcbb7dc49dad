"""The states of a guest's disks and memory: what a power cut leaves, and snapshots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Self, overload

from pytest_xhyve.guest import recorder
from pytest_xhyve.guest.access import GuestAccess
from pytest_xhyve.model.errors import ConfigurationError, NotSupported, XhyveError
from pytest_xhyve.model.machine import Disk, Machine
from pytest_xhyve.model.values import parse_size

if TYPE_CHECKING:
    from pytest_xhyve.guest.crash_disks import Check
    from pytest_xhyve.guest.snapshots import Snapshot
    from pytest_xhyve.hypervisors.block import BlockLayer
    from pytest_xhyve.model.crash_state import CrashState


class GuestStates(GuestAccess):
    """The part of `pytest_xhyve.Guest` that records states of the guest, and brings them back."""

    # The state that `crash_states` has booted, and its disk.
    _crash: tuple[CrashState, Disk] | None = None

    def record_writes(self, *, max_size: int | str = recorder.MAX_SIZE) -> None:
        """Record all writes and flushes of the guest's disks from now on, for `power_cut`.

        What the disks contain now counts as flushed. The record goes on after `reboot`, `kill` and `start`. A second
        call does nothing. ``@pytest.mark.xhyve(power_cuts=True)`` does the same before the test gets the guest.

        Args:
            max_size: the limit of the record of one disk, which needs as much space on the host as the guest writes. If
                a guest exceeds it, the hypervisor pauses the guest, and the next call on it raises `BootFailed`.

        Raises:
            NotSupported: only QEMU can do that.
            ConfigurationError: *max_size* is not a size.
            XhyveError: the guest is off.
        """
        limit = parse_size(max_size)
        if self._recorder.disks and self._power.is_on:
            return
        vm = self._power.machine
        self._recorder.max_size = limit
        self._begin_recording(vm)

    def power_cut(self) -> None:
        """Cut the power: the guest's disks keep exactly what was flushed. `start` boots the guest from that.

        Raises:
            XhyveError: the guest is off, or its writes are not recorded.
        """
        if not self._power.is_on:
            raise XhyveError(f"guest {self.name} is off, so its power cannot be cut; start() starts it")
        if not self._recorder.disks:
            raise recorder.not_recorded(self.name, "a power cut cannot take back any of them; kill() ends the guest")
        self._power.switch_off()
        self._machine = self._recorder.cut(self._machine)

    def mark(self, label: str) -> None:
        """Mark this moment in the record of the guest's writes: `CrashState.marks` shows it in later states.

        Mark what a program has acknowledged: a state with the mark has to contain it.

        Raises:
            XhyveError: the guest's writes are not recorded.
        """
        if not self._recorder.disks:
            raise recorder.not_recorded(self.name, "there is nothing to mark")
        self._recorder.mark(label)

    @overload
    def crash_states(
        self,
        sample: int = ...,
        *,
        seed: int = ...,
        only: Sequence[int] | None = ...,
        check: None = ...,
        boot: Literal[True] = ...,
        disk: int = ...,
        sector: int = ...,
    ) -> Iterator[Self]: ...

    @overload
    def crash_states(
        self,
        sample: int = ...,
        *,
        seed: int = ...,
        only: Sequence[int] | None = ...,
        check: Check,
        boot: Literal[False],
        disk: int = ...,
        sector: int = ...,
        timeout: float = ...,
    ) -> tuple[CrashState, ...]: ...

    def crash_states(
        self,
        sample: int = 20,
        *,
        seed: int = 0,
        only: Sequence[int] | None = None,
        check: Check | None = None,
        boot: bool = True,
        disk: int = 0,
        sector: int = 512,
        timeout: float = 60.0,
    ) -> Iterator[Self] | tuple[CrashState, ...]:
        """Boot the guest, or check its disk, in each of some states that a crash may leave.

        Each state is one from between two flushes of the record: what was flushed is there, and of the other writes,
        any may be lost, and any may be torn. The guest's writes must be recorded; see `record_writes`.

        With ``boot=True``, this is an iterator. It ends the guest, boots it on one state after the other, and yields it
        each time; `crash_state` describes the state. After the last one, the guest is off, and `start` boots what was
        flushed. If you leave the loop before, the guest goes on in its state, and a new record begins. With
        ``boot=False``, *check* checks all states before the call returns, and the guest runs on.

        Args:
            sample: how many states; they come in the order of time.
            seed: chooses the states. The same seed chooses the same states of the same record.
            only: the numbers of the states to bring back; None for the whole sample.
            check: a command for the host in which ``{disk}`` is the path of a disk file without a format, such as
                ``"e2fsck -fn {disk}"``. If its exit code is not 0, the state fails. Or a function that gets the path
                and the `CrashState`. If it raises an error or returns False, the state fails. The file may be changed.
            boot: whether to boot the guest on each state.
            disk: the disk, numbered from 0. To boot, the guest must have no other disk.
            sector: the bytes that the disk writes as a whole or not at all, such as 4096.
            timeout: the limit for a check that is a command, in seconds.

        Returns:
            the guest, once for each state; or the states that were checked.

        Raises:
            ConfigurationError: an argument is invalid.
            NotSupported: ``boot=True`` for a guest with more than one disk.
            XhyveError: the guest's writes are not recorded, nothing was written, or the check failed. A note names the
                state, and the call that brings it back.
        """
        from pytest_xhyve.guest import crash_states  # noqa: PLC0415

        chosen = crash_states.Sample(sample, seed, only, disk, sector)
        if boot:
            if check is not None:
                raise ConfigurationError("check= runs on disks that are not booted: add boot=False")
            return crash_states.boot_states(self, chosen)
        if check is None:
            raise ConfigurationError('boot=False needs check=, such as check="e2fsck -fn {disk}"')
        return crash_states.check_states(self, chosen, check, timeout)

    @property
    def crash_state(self) -> CrashState | None:
        """The state that `crash_states` has booted the guest on, or that failed its check; None if there is none."""
        return None if self._crash is None else self._crash[0]

    def snapshot(self) -> Snapshot:
        """Save the running guest: memory, programs, disks. The guest runs on, and `restore` brings this state back.

        A guest that the test has paused stays paused; once it is restored, it runs. A snapshot takes as much space as
        the guest's memory. It is removed with the guest.

        Raises:
            NotSupported: only QEMU can do that.
            XhyveError: the guest is off, or no space is left.
        """
        from pytest_xhyve.guest import snapshots  # noqa: PLC0415

        def disks_changed(machine: Machine) -> None:
            self._machine = machine

        return snapshots.take_snapshot(
            self._power.machine, self._block_layer(), self._machine, self._recorder, self._folder, disks_changed
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Bring back the state of *snapshot*; the guest may be off. A snapshot can be restored any number of times.

        The clock is set to the present, and the kernel gets new random numbers. The plugin connects again: take
        `ssh` anew. Programs that talked to the network find their connections broken.

        Raises:
            XhyveError: the snapshot is one of another guest, or was removed, or cannot be restored.
        """
        from pytest_xhyve.guest import clock, snapshots  # noqa: PLC0415
        from pytest_xhyve.guest.root_shell import root_shell  # noqa: PLC0415

        # First, as a shared guest may have to be reset before.
        power = self._power
        snapshots.check(snapshot, self.name, self._folder)
        power.switch_off()
        restored = snapshots.start_from_snapshot(self._instance, snapshot)
        self._replace_machine(restored.machine, restored.start, self._boot)
        if not restored.clock_is_set:
            instance = self._instance
            clock.change_clock(root_shell(self, instance.timeouts.step), instance.architecture, 0.0, None, seed=True)

    def _block_layer(self) -> BlockLayer:
        block = self._power.machine.block
        if block is None:
            raise NotSupported(
                f"{self.hypervisor.name} cannot change the disks of guest {self.name} while it runs\n"
                "  use --xhyve-hypervisor=qemu"
            )
        return block
