"""Every test here that uses a guest runs under each hypervisor: QEMU, and xhyve, for which a stand-in stands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from chosen import Chosen
from standin.mac import Mac

from pytest_xhyve.fleet import Fleet
from pytest_xhyve.home import Home
from pytest_xhyve.settings import Settings


@pytest.fixture(scope="session", params=["qemu", "xhyve"])
def hypervisor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chosen:
    """What runs the guests of a test."""
    if request.param == "qemu":
        return Chosen("qemu")
    mac: Mac = request.getfixturevalue("mac")
    mac.behave()
    return Chosen("xhyve", mac.install(tmp_path_factory.mktemp("program") / "xhyve", "head"))


@pytest.fixture(scope="session")
def settings(hypervisor: Chosen) -> Settings:
    """What a fleet of a test's own is made with."""
    return hypervisor.settings()


@pytest.fixture(scope="session")
def _xhyve_fleet(settings: Settings) -> Iterator[Fleet]:
    """The fleet that the plugin's fixtures take guests from: here, one for each hypervisor."""
    with closing(Fleet(settings, Home.of_user(), print)) as fleet:
        yield fleet
