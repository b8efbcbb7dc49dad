"""Every test here that uses a guest runs under each hypervisor: QEMU, and xhyve, for which a stand-in stands.

Under QEMU it runs twice: on guests that were booted, and on guests that were restored from a template.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from chosen import Chosen
from standin.mac import Mac

from pytest_xhyve import Guest
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.settings import Settings

WAYS = ("qemu", "warm", "xhyve")
"""How the guest of a test runs: booted by QEMU, restored by QEMU from a template, booted by xhyve's stand-in."""

# The larger image boots once and is restored nowhere, but for what is about it.
_IMAGES_LEFT_OUT = {("qemu", "tiny"), ("warm", "debian12"), ("xhyve", "debian12")}


@pytest.fixture(scope="session", params=WAYS)
def hypervisor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chosen:
    """What runs the guests of a test."""
    if request.param in ("qemu", "warm"):
        return Chosen("qemu", start="auto" if request.param == "warm" else "cold")
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
    with closing(Fleet(settings, Home.of_user())) as fleet:
        yield fleet


def pytest_xhyve_guest_ready(guest: Guest, request: pytest.FixtureRequest) -> None:
    """No test that is to run on a restored guest runs on a booted one unseen."""
    warm = request.getfixturevalue("hypervisor").start == "auto"
    assert ("restore" in guest.phases) == warm


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of what would run on both images or each way, leave out what shows least for its time."""
    dropped = [item for item in items if _shows_least(item)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def _shows_least(item: pytest.Item) -> bool:
    ways = _ways(item)
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return False
    hypervisor, image = (item.callspec.params.get(name) for name in ("hypervisor", "xhyve_image"))
    return (hypervisor is not None and hypervisor not in ways) or (hypervisor, image) in _IMAGES_LEFT_OUT


def _ways(item: pytest.Item) -> tuple[str, ...]:
    """The ways that the nearest marker ``run_under`` names, or else all."""
    mark = item.get_closest_marker("run_under")
    if mark is None:
        return WAYS
    if not mark.args or mark.kwargs or not set(mark.args) <= set(WAYS):
        raise pytest.UsageError(f"{item.nodeid}: run_under takes one or more of {', '.join(WAYS)}, not {mark}")
    if mark in item.own_markers and "hypervisor" not in getattr(item, "fixturenames", ()):
        raise pytest.UsageError(f"{item.nodeid}: run_under has no effect on a test that runs no guest")
    return mark.args
