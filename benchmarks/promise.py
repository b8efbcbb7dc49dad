"""What is promised of warm guests, next to what was measured: one line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """One line of the table.

    Attributes:
        what: what was measured.
        measured: as it is shown.
        target: as it is shown.
        is_met: whether the one keeps the other.
    """

    what: str
    measured: str
    target: str
    is_met: bool


def at_most(what: str, measured: float, limit: float, unit: str, digits: int = 2) -> Promise:
    """A promise that *measured* is at most *limit*."""
    shown = (f"{number:.{digits}f} {unit}" for number in (measured, limit))
    return Promise(what, next(shown), f"at most {next(shown)}", measured <= limit)


def at_least(what: str, measured: float, limit: float, unit: str, digits: int = 2) -> Promise:
    """A promise that *measured* is at least *limit*."""
    shown = (f"{number:.{digits}f} {unit}" for number in (measured, limit))
    return Promise(what, next(shown), f"at least {next(shown)}", measured >= limit)


def faster(what: str, seconds: float, than: float, times: float) -> Promise:
    """A promise that what takes *seconds* is *times* faster than what takes *than* seconds."""
    ratio = than / seconds
    return Promise(what, f"{ratio:.1f} x ({seconds:.2f} s, {than:.2f} s)", f"{times:g} x faster", ratio >= times)


def show(promises: Sequence[Promise]) -> str:
    """The lines of the table."""
    what = max(len(promise.what) for promise in promises)
    measured = max(len(promise.measured) for promise in promises)
    target = max(len(promise.target) for promise in promises)
    lines = [f"{'':{what}}  {'measured':>{measured}}  {'target':<{target}}"]
    lines += [
        f"{promise.what:{what}}  {promise.measured:>{measured}}  {promise.target:<{target}}  "
        f"{'met' if promise.is_met else 'NOT MET'}"
        for promise in promises
    ]
    return "\n".join(line.rstrip() for line in lines)
