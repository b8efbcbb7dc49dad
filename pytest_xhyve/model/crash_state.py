"""A state in which a disk may be found after a crash, as a test sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CrashState:
    """The state of a guest's disk after a crash; see `Guest.crash_states`.

    Attributes:
        number: the state's number in its sample.
        line: the call that brings back this state, from the same record.
        flushed: how many writes and flushes were on the disk for certain.
        point: how many were complete when the power failed.
        lost: how many of those between the two are missing.
        torn: how many of those between the two are there in part.
        marks: the labels of `Guest.mark` that were set when no more than *flushed* was flushed: what was acknowledged
            before them has to be there.
    """

    number: int
    line: str
    flushed: int
    point: int
    lost: int
    torn: int
    marks: tuple[str, ...]

    def __str__(self) -> str:
        missing = (
            f"{self.lost} lost and {self.torn} torn of the {self.point - self.flushed} writes since the last flush"
        )
        return f"crash state {self.number}, after {self.point} writes and flushes: {missing}; again: {self.line}"
