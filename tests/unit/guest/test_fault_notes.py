"""What a report shows of the faults that a test has injected."""

from __future__ import annotations

import re

from pytest_xhyve.guest.fault_notes import CLOCK, MEMORY, FaultNotes
from pytest_xhyve.model.errors import XhyveError


def explained(notes: FaultNotes) -> list[str]:
    error = XhyveError("the guest is silent")
    notes.explain(error)
    return getattr(error, "__notes__", [])


def test_present_faults_explain_an_error() -> None:
    notes = FaultNotes()
    assert explained(notes) == []
    notes.note("disk 0", "read requests fail")
    notes.note("disk 1", "limited to 1 MiB/s")
    (note,) = explained(notes)
    assert note.endswith("disk 0: read requests fail; disk 1: limited to 1 MiB/s")
    notes.note("disk 0", None)
    notes.note("disk 0", None)
    (note,) = explained(notes)
    assert "disk 0" not in note
    notes.end()
    assert explained(notes) == []
    assert [re.sub(r"\d+\.\d", "T", line) for line in notes.lines] == [
        "fault after T s: disk 0: read requests fail",
        "fault after T s: disk 1: limited to 1 MiB/s",
        "fault after T s: disk 0: healed",
    ]


def test_restart_ends_what_the_kernel_had() -> None:
    notes = FaultNotes()
    for place in (CLOCK, "disk 0", MEMORY):
        notes.note(place, "bad")
    notes.restarted()
    (note,) = explained(notes)
    assert note.endswith("guest: disk 0: bad")
