"""A series of faults in the background, while a test's load runs; a seed makes it reproducible."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Protocol, Self

from pytest_xhyve.model.errors import ConfigurationError, XhyveError
from pytest_xhyve.model.values import short_repr, suggest

_END_SECONDS = 60.0
# The share of the time between two faults for which one lasts.
_LEAST_SHARE, _MOST_SHARE = 0.3, 0.9


class _Disk(Protocol):
    def fail(self, *, reads: bool = ..., writes: bool = ...) -> None: ...

    def slow(self, *, bytes_per_second: int | str | None = ...) -> None: ...

    def heal(self) -> None: ...


class ChaosGuest(Protocol):
    """The part of `pytest_xhyve.Guest` that this module uses."""

    @property
    def name(self) -> str: ...

    @property
    def disks(self) -> Sequence[_Disk]: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def throttle(self, *, cpu: float | None) -> None: ...

    def set_clock(self, *, offset: float | None = ...) -> None: ...


@contextmanager
def _slow_disk(guest: ChaosGuest, random: Random) -> Iterator[None]:
    disk = random.choice(guest.disks)
    disk.slow(bytes_per_second=random.choice(("256K", "1M", "4M")))
    try:
        yield
    finally:
        disk.heal()


@contextmanager
def _failing_disk(guest: ChaosGuest, random: Random) -> Iterator[None]:
    # The first disk is the one that the guest runs from; if there is another one, that fails.
    disk = random.choice(guest.disks[1:] or guest.disks)
    disk.fail(writes=random.random() < 0.5)
    try:
        yield
    finally:
        disk.heal()


@contextmanager
def _slow_cpu(guest: ChaosGuest, random: Random) -> Iterator[None]:
    guest.throttle(cpu=random.choice((0.1, 0.3, 0.5)))
    try:
        yield
    finally:
        guest.throttle(cpu=None)


@contextmanager
def _pause(guest: ChaosGuest, _: Random) -> Iterator[None]:
    guest.pause()
    try:
        yield
    finally:
        guest.resume()


@contextmanager
def _wrong_clock(guest: ChaosGuest, random: Random) -> Iterator[None]:
    guest.set_clock(offset=random.choice((-3600, -10, 10, 3600)))
    try:
        yield
    finally:
        guest.set_clock(offset=0)


FAULTS: Mapping[str, Callable[[ChaosGuest, Random], AbstractContextManager[None]]] = {
    "slow disk": _slow_disk,
    "failing disk": _failing_disk,
    "slow cpu": _slow_cpu,
    "pause": _pause,
    "wrong clock": _wrong_clock,
}
"""Each kind of fault of one guest; the random numbers choose its details."""

USUAL = ("slow disk", "slow cpu", "pause")
"""The faults that a correct program survives without an error."""


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """One fault of a series.

    Attributes:
        name: the fault.
        seconds: how long it lasts.
        rest: the seconds without a fault after it.
        seed: chooses its details.
    """

    name: str
    seconds: float
    rest: float
    seed: str


def plan(
    seed: int, faults: Sequence[str], every: float, kinds: Collection[str] = tuple(FAULTS)
) -> Iterator[PlannedFault]:
    """A series without end, in which a fault begins every *every* seconds; the same *seed* gives the same series.

    Args:
        seed: chooses the faults.
        faults: the kinds to choose from.
        every: seconds.
        kinds: all kinds.

    Raises:
        ConfigurationError: an argument is invalid.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ConfigurationError(f"seed={short_repr(seed)} is not a whole number")
    if isinstance(every, bool) or not isinstance(every, int | float) or not 0 < every < math.inf:
        raise ConfigurationError(f"every={short_repr(every)} is not a positive number of seconds")
    if isinstance(faults, str) or not faults:
        raise ConfigurationError(f"faults={short_repr(faults)} is not a list such as {list(USUAL)}")
    for name in faults:
        if name not in kinds:
            known = ", ".join(kinds)
            raise ConfigurationError(
                f"there is no fault {short_repr(name)}{suggest(str(name), kinds)} (known: {known})"
            )
    return _plan(seed, tuple(faults), every)


def _plan(seed: int, faults: Sequence[str], every: float) -> Iterator[PlannedFault]:
    random = Random(f"{seed}")  # noqa: S311
    number = 0
    while True:
        seconds = every * random.uniform(_LEAST_SHARE, _MOST_SHARE)
        yield PlannedFault(random.choice(faults), seconds, every - seconds, f"{seed}/{number}")
        number += 1


class Chaos:
    """Injects faults into a guest or a cluster, one after the other, for the duration of a ``with`` block.

    Args:
        name: of what, for messages.
        inject: injects the fault of this kind, with these random numbers, for the time of its block.
        series: the faults.
    """

    def __init__(
        self, name: str, inject: Callable[[str, Random], AbstractContextManager[None]], series: Iterator[PlannedFault]
    ) -> None:
        self._name = name
        self._inject = inject
        self._series = series
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="xhyve-chaos", daemon=True)
        self._injected: list[str] = []
        self._skipped: list[str] = []

    @property
    def injected(self) -> Sequence[str]:
        """The names of the faults so far, in their order."""
        return tuple(self._injected)

    @property
    def skipped(self) -> Sequence[str]:
        """Why faults could not be injected, for example because the guest was off."""
        return tuple(self._skipped)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join(_END_SECONDS)
        if self._thread.is_alive():
            late = XhyveError(f"the last fault of {self._name} did not end within {_END_SECONDS:g} s")
            if error is None:
                raise late
            error.add_note(str(late))

    def _run(self) -> None:
        for fault in self._series:
            try:
                with self._inject(fault.name, Random(fault.seed)):  # noqa: S311
                    self._injected.append(fault.name)
                    self._ending.wait(fault.seconds)
            except (XhyveError, OSError) as skipped:
                # The test's load may restart the guest at any moment, which ends its faults and its process.
                self._skipped.append(f"{fault.name}: {skipped}")
            if self._ending.wait(fault.rest):
                return
