"""What the plugin promises, and whether the measurements keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measure import Boot, Summary
from benchmarks.startup import Cost
from benchmarks.table import show

_READY_SECONDS = {"tiny": 6.0, "debian12": 15.0}
_OVER_FLOOR = 1.05
_OVER_FLOOR_SECONDS = 0.3
_TEARDOWN_SECONDS = 0.1
_STARTUP_SECONDS = 0.010


@dataclass(frozen=True, slots=True)
class Target:
    """A promise: *measured* is at most *limit*, both in seconds."""

    name: str
    measured: float
    limit: float

    @property
    def is_met(self) -> bool:
        return self.measured <= self.limit

    def __str__(self) -> str:
        verdict = "pass" if self.is_met else "FAIL"
        return f"{verdict}  {self.name}: {show(self.measured)} (at most {show(self.limit)})"


def of_boots(image: str, plugin: Sequence[Boot], floor: Sequence[Boot]) -> list[Target]:
    ready, least = (Summary.of(boot.ready for boot in boots).median for boots in (plugin, floor))
    limit = max(least * _OVER_FLOOR, least + _OVER_FLOOR_SECONDS)
    targets = [Target(f"{image}: plugin next to the floor", ready, limit)]
    if image in _READY_SECONDS:
        targets.append(Target(f"{image}: request to output", ready, _READY_SECONDS[image]))
    teardown = Summary.of(boot.teardown for boot in plugin).median
    return [*targets, Target(f"{image}: teardown, median", teardown, _TEARDOWN_SECONDS)]


def of_startup(costs: Sequence[Cost]) -> list[Target]:
    return [
        Target(
            f"{cost.command}: installed ({cost.pair})",
            cost.added,
            _STARTUP_SECONDS,
        )
        for cost in costs
    ]


def stays_light(modules: Mapping[str, Sequence[str]]) -> bool:
    """Whether each run with the plugin has imported no heavy module that the run without it has not."""
    return all(
        set(names) <= set(modules[way.replace("(with)", "(without)")])
        for way, names in modules.items()
        if way.endswith("(with)")
    )
