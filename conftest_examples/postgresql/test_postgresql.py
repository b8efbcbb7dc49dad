"""PostgreSQL keeps what it acknowledged: after each power cut, and in each state of a sample that a crash may leave.

To copy: the database is restored from a template, so that no test waits for its start; `power_cut` keeps what was
flushed; `mark` names what the server has acknowledged.
"""

from __future__ import annotations

import pytest

from pytest_xhyve import Guest

# In the place of psql, which is a program in Perl that chooses among the installed versions.
PSQL = "/usr/lib/postgresql/15/bin/psql"
INSERT = "INSERT INTO numbers SELECT count(*) + 1 FROM numbers"
SELECT = "SELECT number FROM numbers ORDER BY number"


def query(guest: Guest, statement: str) -> list[str]:
    """Run *statement*, once the server answers, and return the lines of its answer."""
    # Its start includes the recovery after a crash.
    guest.wait_for_unit("postgresql@15-main", timeout=600)
    return guest.run([PSQL, "-qtAc", statement], user="postgres").stdout.split()


@pytest.fixture
def database(xhyve_guest: Guest) -> Guest:
    """A guest whose server has an empty table."""
    query(xhyve_guest, "CREATE TABLE numbers (number INTEGER)")
    xhyve_guest.mark("0")
    return xhyve_guest


@pytest.mark.xhyve(power_cuts=True)
def test_acknowledged_rows_survive_power_cuts(database: Guest) -> None:
    for number in range(1, 3):
        query(database, INSERT)
        database.power_cut()
        database.start()
        assert query(database, SELECT) == list(map(str, range(1, number + 1)))


@pytest.mark.xhyve(power_cuts=True)
def test_acknowledged_rows_are_in_every_crash_state(database: Guest) -> None:
    for number in range(1, 4):
        query(database, INSERT)
        database.mark(str(number))
    for guest in database.crash_states(3, seed=1):
        assert guest.crash_state is not None
        marks = guest.crash_state.marks
        if marks:
            there = query(guest, SELECT)
            assert there == list(map(str, range(1, len(there) + 1)))
            assert len(there) >= int(marks[-1])
