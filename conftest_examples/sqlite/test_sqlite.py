"""SQLite keeps what it acknowledged, if it is asked to: each state that a crash may leave is checked on the host.

To copy: the database is in a file system on a disk of its own, the record begins once that is mounted, and the check
repeats the file system's journal, copies the database out of the disk, and opens it. No state has to boot.
"""

from __future__ import annotations

import sqlite3
import subprocess
from pathlib import Path

import pytest

from pytest_xhyve import CrashState, Guest

FILES = ("store.db", "store.db-wal")
INSERT = """
import sqlite3, sys
synchronous, number = sys.argv[1:]
store = sqlite3.connect("/srv/store.db", isolation_level=None)
store.execute("PRAGMA journal_mode = WAL")
store.execute(f"PRAGMA synchronous = {synchronous}")
store.execute("CREATE TABLE IF NOT EXISTS numbers (number INTEGER)")
store.execute("INSERT INTO numbers VALUES (?)", [number])
# A clean close would move the log into the database, and sync that.
import os; os._exit(0)
"""


def insert_numbers(guest: Guest, synchronous: str) -> None:
    """Insert some numbers, each after the one before was acknowledged."""
    guest.run("mkfs.ext4 -q /dev/vdb && mount /dev/vdb /srv")
    guest.record_writes()
    for number in range(1, 9):
        guest.run(["python3", "-c", INSERT, synchronous, str(number)])
        guest.mark(str(number))


def acknowledged_numbers_are_there(disk: Path, state: CrashState) -> None:
    """Mend the file system as a boot does, open the database, and compare it with what was acknowledged."""
    mended = subprocess.run(["e2fsck", "-p", str(disk)], check=False, stdout=subprocess.DEVNULL)
    # 1: the journal was repeated, or something was mended that is safe to mend (e2fsck(8)).
    assert mended.returncode in (0, 1)
    for name in FILES:
        copy = ["debugfs", "-R", f"dump /{name} {disk.with_name(name)}", str(disk)]
        subprocess.run(copy, check=True, stderr=subprocess.DEVNULL)
    store = sqlite3.connect(disk.with_name("store.db"))
    assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    tables = store.execute("SELECT name FROM sqlite_master").fetchall()
    there = [number for (number,) in store.execute("SELECT number FROM numbers")] if tables else []
    store.close()
    for name in FILES:
        disk.with_name(name).unlink(missing_ok=True)
    assert there == list(range(1, len(there) + 1))
    assert len(there) >= len(state.marks), f"lost {state.marks[len(there) :]}"


@pytest.mark.xhyve(disks=["64M"])
def test_full_keeps_what_it_acknowledged(xhyve_guest: Guest) -> None:
    insert_numbers(xhyve_guest, "FULL")
    xhyve_guest.crash_states(200, seed=1, check=acknowledged_numbers_are_there, boot=False, disk=1)


@pytest.mark.xhyve(disks=["64M"])
def test_normal_loses_what_it_acknowledged(xhyve_guest: Guest) -> None:
    # SQLite's documentation says so: a commit in WAL mode is not synced then. The database stays consistent.
    insert_numbers(xhyve_guest, "NORMAL")
    with pytest.raises(AssertionError, match="lost"):
        xhyve_guest.crash_states(50, seed=1, check=acknowledged_numbers_are_there, boot=False, disk=1)
