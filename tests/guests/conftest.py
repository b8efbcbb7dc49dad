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

# Files and tests that show the same in several ways of running guests, and the ways that are left out for it.
_LEFT_OUT = {
    # What is about pytest runs as users have it: on restored guests, before the first of which one boots.
    "test_deaths.py": ("qemu",),
    "test_failure.py": ("qemu",),
    "test_plugin.py": ("qemu",),
    "test_systemd.py": ("xhyve",),
    "test_altered_disk_does_not_boot": ("qemu", "xhyve"),
    "test_collecting_starts_nothing": ("xhyve",),
    "test_each_rerun_has_artifacts_of_its_own": ("xhyve",),
    "test_disc_in_a_drive": ("warm",),
    "test_every_scope_has_its_guest": ("xhyve",),
    "test_failing_set_up_takes_the_guest_away": ("xhyve",),
    # Under xhyve, test_trouble.py has guests that do not come up.
    "test_guest_that_does_not_come_up": ("xhyve",),
    "test_later_tests_get_ready_guests": ("qemu",),
    "test_marker_parameter_factory_and_hooks": ("xhyve",),
    # Whichever way a guest has come up, it boots from its disk next.
    "test_off_and_on_again": ("warm",),
    "test_panic_ends_the_waiting": ("qemu",),
    "test_ps_lists_and_reap_spares_the_living": ("xhyve",),
    # The stand-in's end is not xhyve's.
    "test_teardown_takes_a_tenth_of_a_second": ("xhyve",),
    "test_xdist_workers_share_nothing": ("xhyve",),
}
# The larger image boots once and is restored nowhere, but for what is about it.
_IMAGES_LEFT_OUT = {("qemu", "tiny"), ("warm", "debian12"), ("xhyve", "debian12")}


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
    with closing(Fleet(settings, Home.of_user())) as fleet:
        yield fleet


def pytest_xhyve_guest_ready(guest: Guest, request: pytest.FixtureRequest) -> None:
    """No test that is to run on a restored guest runs on a booted one unseen."""
    warm = request.getfixturevalue("hypervisor").start == "auto"
    assert ("restore" in guest.phases) == warm


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of what would run on both images or each way, leave out what shows least, for the time that it takes."""
    dropped = [item for item in items if _shows_least(item)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def _shows_least(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return False
    hypervisor, image = (item.callspec.params.get(name) for name in ("hypervisor", "xhyve_image"))
    left_out = {*_LEFT_OUT.get(item.path.name, ()), *_LEFT_OUT.get(item.originalname, ())}
    return hypervisor in left_out or (hypervisor, image) in _IMAGES_LEFT_OUT
