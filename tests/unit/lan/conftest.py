"""A switch under a real guardian."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_xhyve.host.guardian import GuardedProcess, Guardian
from pytest_xhyve.lan.switch import Switch, running_switch


@pytest.fixture
def process(guardian: Guardian, run_folder: Path) -> Iterator[GuardedProcess]:
    (run,) = run_folder.iterdir()
    with guardian.guard(run / "lan", [], {"lan": "lan"}) as process:
        yield process


@pytest.fixture
def switch(process: GuardedProcess) -> Iterator[Switch]:
    with running_switch(process, "lan") as switch:
        yield switch
