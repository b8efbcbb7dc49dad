"""Boot or check the disk of a guest in each of some states in which a crash may leave it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from pytest_xhyve.formats.qcow2_overlay import COARSE, Qcow2Overlay
from pytest_xhyve.formats.write_log import SECTOR
from pytest_xhyve.guest.crash_choice import ChosenState, CrashChooser
from pytest_xhyve.guest.crash_disks import Check, CrashDisks, parse_check
from pytest_xhyve.guest.recorder import RecordedDisk, WriteRecorder, not_recorded
from pytest_xhyve.model.crash_state import CrashState
from pytest_xhyve.model.errors import ConfigurationError, NotSupported, XhyveError
from pytest_xhyve.model.machine import Disk, Machine


class _Guest(Protocol):
    """The part of `pytest_xhyve.Guest` that this module uses."""

    _recorder: WriteRecorder
    _machine: Machine
    _crash: tuple[CrashState, Disk] | None

    @property
    def name(self) -> str: ...

    def kill(self) -> None: ...

    def start(self) -> None: ...

    def record_writes(self, *, max_size: int) -> None: ...


_AnyGuest = TypeVar("_AnyGuest", bound=_Guest)


@dataclass(frozen=True, slots=True)
class Sample:
    """The states that a test asks for.

    Attributes:
        count: how many.
        seed: chooses them.
        only: the numbers of the states; None for all of the sample.
        disk: the disk, numbered from 0.
        sector: the bytes that the disk writes as a whole or not at all.
    """

    count: int
    seed: int
    only: Sequence[int] | None
    disk: int
    sector: int

    def __post_init__(self) -> None:
        for name, value in (("sample", self.count), ("seed", self.seed), ("disk", self.disk), ("sector", self.sector)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigurationError(f"{name}={value!r} is not a whole number")
        if self.count < 1:
            raise ConfigurationError(f"sample={self.count} is not a positive number")
        if self.sector < SECTOR or self.sector & (self.sector - 1):
            raise ConfigurationError(f"sector={self.sector} is not 512 or a larger power of two")
        if self.only is not None and (not self.only or min(self.only) < 0):
            raise ConfigurationError(f"only={self.only!r} is not a list of states' numbers, such as [7]")

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of the states."""
        return range(self.count) if self.only is None else sorted(set(self.only))

    def line(self, number: int) -> str:
        """The call that brings back the state *number*."""
        options = [f"only=[{number}]", f"seed={self.seed}"]
        options += [f"disk={self.disk}"] if self.disk else []
        options += [f"sector={self.sector}"] if self.sector != SECTOR else []
        return f"guest.crash_states({', '.join(options)})"


def boot_states(guest: _AnyGuest, sample: Sample) -> Iterator[_AnyGuest]:
    """See `pytest_xhyve.Guest.crash_states`."""
    if len(guest._machine.disks) != 1:
        raise NotSupported(
            f"guest {guest.name} has {len(guest._machine.disks)} disks, and a state is one of a single disk\n"
            "  check the states of each disk with crash_states(check=…, boot=False, disk=…)"
        )
    _recorded(guest, sample)
    return _boot_states(guest, sample)


def _boot_states(guest: _AnyGuest, sample: Sample) -> Iterator[_AnyGuest]:
    recorded, chooser = _recorded(guest, sample)
    guest.kill()
    folder = recorded.log.parent / f"crash-{secrets.token_hex(4)}"
    with _not_recording(guest), CrashDisks(recorded, chooser, folder) as disks:
        machine = guest._machine
        for state in disks.in_order(sample.numbers):
            described = _describe(guest, sample, state)
            source = disks.overlay(state)
            used = Disk(folder / f"booted-{state.number}.qcow2", "qcow2")
            with Qcow2Overlay(used.path, recorded.size, source.path, source.format, COARSE):
                pass
            guest.kill()
            guest._machine = replace(machine, disks=(used,))
            guest._crash = described, source
            try:
                guest.start()
            except XhyveError as error:
                error.add_note(str(described))
                raise
            yield guest
            used.path.unlink()
        guest.kill()


@contextmanager
def _not_recording(guest: _Guest) -> Iterator[None]:
    """Let the states not be recorded; after the last one, the guest gets what was flushed before the first one.

    If the block ends early, the guest goes on in its state, with a new record.
    """
    recorder, machine = guest._recorder, guest._machine
    limit, recorder.max_size = recorder.max_size, None
    record, recorder.disks = recorder.disks, ()
    assert limit is not None
    try:
        yield
    # A generator that is not finished ends with GeneratorExit.
    except BaseException:
        # If the guest is off, its next start begins the record.
        recorder.max_size = limit
        with suppress(XhyveError, OSError):
            guest.record_writes(max_size=limit)
        raise
    guest._crash = None
    recorder.max_size, recorder.disks = limit, record
    guest._machine = recorder.cut(machine)


def check_states(guest: _Guest, sample: Sample, check: Check, timeout: float) -> tuple[CrashState, ...]:
    """See `pytest_xhyve.Guest.crash_states`."""
    run_check = parse_check(check)
    recorded, chooser = _recorded(guest, sample)
    folder = recorded.log.parent / f"crash-{secrets.token_hex(4)}"
    done = []
    guest._crash = None
    with CrashDisks(recorded, chooser, folder) as disks:
        for state in disks.in_order(sample.numbers):
            described = _describe(guest, sample, state)
            disk = disks.raw(state)
            try:
                run_check(disk, described, timeout)
            except Exception as error:
                # The check may have changed its disk.
                guest._crash = described, Disk(disks.raw(state), "raw")
                error.add_note(str(described))
                raise
            disk.unlink()
            done.append(described)
    return tuple(done)


def _recorded(guest: _Guest, sample: Sample) -> tuple[RecordedDisk, CrashChooser]:
    recorded = guest._recorder.disks
    if not recorded:
        raise not_recorded(guest.name, "there are no crash states")
    if not 0 <= sample.disk < len(recorded):
        raise ConfigurationError(f"guest {guest.name} has no disk {sample.disk}; it has {len(recorded)}, from 0")
    disk = recorded[sample.disk]
    try:
        return disk, CrashChooser(disk.read(), disk.own_flushes(), sample.seed, sample.sector)
    except ValueError as error:
        raise XhyveError(f"no crash states of guest {guest.name}: {error}") from error


def _describe(guest: _Guest, sample: Sample, state: ChosenState) -> CrashState:
    marks = tuple(mark.label for mark in guest._recorder.marks if mark.flushed[sample.disk] <= state.flushed)
    return CrashState(
        state.number, sample.line(state.number), state.flushed, state.point, state.lost, state.torn, marks
    )
