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
from pytest_xhyve.fleet import Fleet
from pytest_xhyve.home import Home
from pytest_xhyve.settings import Settings

_AS_USERS_HAVE_IT = ("test_deaths.py", "test_docs.py", "test_failure.py", "test_plugin.py")

# Tests that show the same, whatever runs the guest, and the ways in which they need not show it again.
_SHOWN_OTHERWISE = {
    "test_altered_disk_does_not_boot": ("qemu", "xhyve"),
    "test_collecting_starts_nothing": ("xhyve",),
    "test_disc_in_a_drive": ("warm",),
    "test_example_suites": ("xhyve",),
    "test_failing_set_up_takes_the_guest_away": ("xhyve",),
    "test_later_tests_get_ready_guests": ("qemu",),
    "test_marker_parameter_factory_and_hooks": ("xhyve",),
    "test_panic_ends_the_waiting": ("qemu",),
    "test_ps_lists_and_reap_spares_the_living": ("xhyve",),
    "test_xdist_workers_share_nothing": ("xhyve",),
}


@pytest.fixture(scope="session", params=["qemu", "warm", "xhyve"])
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
    with closing(Fleet(settings, Home.of_user(), print)) as fleet:
        yield fleet


def pytest_xhyve_guest_ready(guest: Guest, request: pytest.FixtureRequest) -> None:
    """No test that is to run on a restored guest runs on a booted one unseen."""
    warm = request.getfixturevalue("hypervisor").start == "auto"
    assert ("restore" in guest.phases) == warm


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of what would run on both images or each way, leave out what shows least, for the time that it takes.

    Each way keeps an image, and each image a way; what is about pytest runs as users have it, on restored guests,
    before the first of which one boots.
    """
    dropped = [item for item in items if _shows_least(item)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def _shows_least(item: pytest.Item) -> bool:
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    hypervisor, image = params.get("hypervisor"), params.get("xhyve_image")
    if hypervisor in _SHOWN_OTHERWISE.get(getattr(item, "originalname", item.name), ()):
        return True
    if item.path.name in _AS_USERS_HAVE_IT:
        return hypervisor == "qemu"
    if item.path.name == "test_power.py" and image is not None:
        # Whichever way it has come up, it boots from its disk next; xhyve's builds show theirs in test_xhyve.py.
        return (hypervisor, image) != ("qemu", "debian12")
    if item.path.name == "test_systemd.py":
        return hypervisor == "xhyve"
    return (hypervisor, image) in {("qemu", "tiny"), ("warm", "debian12"), ("xhyve", "debian12")}
