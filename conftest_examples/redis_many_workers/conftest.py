"""One server of Redis for all workers of pytest-xdist, and a database in it for each worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_xhyve import Guest

Redis = Callable[..., str]


@pytest.fixture(scope="session")
def xhyve_image() -> Path:
    """The image for all tests of this folder; it is built once."""
    return Path(__file__).parent / "debian12-redis"


def pytest_xhyve_run_guest(guest: Guest) -> None:
    """The set-up of the shared server, once in the whole run."""
    guest.wait_for("redis-cli ping")
    guest.run("redis-cli -n 15 incr set-ups")


@pytest.fixture
def redis(xhyve_run_guest: Guest, worker_id: str) -> Redis:
    """Sends a command to this worker's own database, which is empty."""
    database = worker_id.removeprefix("gw")

    def command(*words: str) -> str:
        return xhyve_run_guest.run(["redis-cli", "-n", database, *words]).stdout.strip()

    command("flushdb")
    return command
