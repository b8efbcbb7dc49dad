"""Every test here that uses a guest runs under each hypervisor: QEMU, and xhyve and vfkit, for which stand-ins stand.

Under QEMU it runs twice: on guests that were booted, and on guests that were restored from a template.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from chosen import Chosen
from homes import KNOWN, share
from kept import kept_guests
from standin.mac import Mac
from warm import fleet_of, template_of

from pytest_xhyve import Guest, Guests
from pytest_xhyve.fleet.cluster import start_cluster
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import reap_kept
from pytest_xhyve.images.recipe import recipe_names
from pytest_xhyve.model.cluster import ClusterSpec
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

WAYS = ("qemu", "warm", "xhyve", "vfkit")
"""How the guest of a test runs: booted by QEMU, restored by QEMU from a template, booted by a stand-in."""

_STAND_INS = ("xhyve", "vfkit")

# The larger image boots once and is restored nowhere, but for what is about it.
_IMAGES_LEFT_OUT = {("qemu", "tiny"), ("warm", "debian12"), ("xhyve", "debian12"), ("vfkit", "debian12")}


@pytest.fixture(scope="session", params=WAYS)
def hypervisor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chosen:
    """What runs the guests of a test."""
    if request.param in ("qemu", "warm"):
        return Chosen("qemu", start="auto" if request.param == "warm" else "cold")
    mac: Mac = request.getfixturevalue("mac")
    mac.behave()
    folder = tmp_path_factory.mktemp("program")
    if request.param == "vfkit":
        return Chosen("vfkit", mac.install_vfkit(folder / "vfkit"))
    return Chosen("xhyve", mac.install(folder / "xhyve", "head"))


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
    for item in items:
        mark = item.get_closest_marker("thorough_under")
        if mark is not None and _way(item) in _named_ways(item, mark):
            item.add_marker("thorough")
        # test_vfkit.py shows what is vfkit's own; its guests are like xhyve's.
        if _way(item) == "vfkit":
            item.add_marker("thorough")
        # make test has the guests of xhyve's stand-in once.
        if _needs_stand_in(item) and not (_way(item) == "xhyve" and item.get_closest_marker("xhyve_in_make_test")):
            item.add_marker("standin")
    dropped = [item for item in items if _shows_least(item)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def _shows_least(item: pytest.Item) -> bool:
    ways = _ways(item)
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return False
    hypervisor, image = (item.callspec.params.get(name) for name in ("hypervisor", "xhyve_image"))
    if image is None:
        image, *_ = item.config.getoption("xhyve_image") or item.config.getini("xhyve_image")
    # They take no layer, which is what a disk from elsewhere becomes.
    impossible = hypervisor in _STAND_INS and image not in recipe_names()
    return (hypervisor is not None and hypervisor not in ways) or (hypervisor, image) in _IMAGES_LEFT_OUT or impossible


def _ways(item: pytest.Item) -> tuple[str, ...]:
    """The ways that the nearest marker ``run_under`` names, or else all."""
    mark = item.get_closest_marker("run_under")
    return WAYS if mark is None else _named_ways(item, mark)


def _named_ways(item: pytest.Item, mark: pytest.Mark) -> tuple[str, ...]:
    """The arguments of *mark*, which are ways."""
    if not mark.args or mark.kwargs or not set(mark.args) <= set(WAYS):
        raise pytest.UsageError(f"{item.nodeid}: {mark.name} takes one or more of {', '.join(WAYS)}, not {mark}")
    if mark in item.own_markers and "hypervisor" not in getattr(item, "fixturenames", ()):
        raise pytest.UsageError(f"{item.nodeid}: {mark.name} has no effect on a test that runs no guest")
    return mark.args


def _needs_stand_in(item: pytest.Item) -> bool:
    return _way(item) in _STAND_INS or "mac" in getattr(item, "fixturenames", ())


def _way(item: pytest.Item) -> object:
    """How the guest of *item* runs, or None if it runs none."""
    return item.callspec.params.get("hypervisor") if hasattr(item, "callspec") else None


@pytest.fixture(scope="module")
def pair(_xhyve_fleet: Fleet, xhyve_image: str) -> Iterator[Guests]:
    """A server and a client on one LAN; each test leaves them as they are."""
    spec = ClusterSpec.parse(server=xhyve_image, client=xhyve_image)
    with start_cluster(_xhyve_fleet, spec, "module") as guests:
        yield guests


@pytest.fixture
def other_home(tmp_path: Path) -> Home:
    """A folder of the plugin's with no templates, for a test that does them harm; it knows the images."""
    return share(Home.of_user(), tmp_path / "other-home", (*KNOWN, "images", "keys"))


@pytest.fixture
def said() -> list[str]:
    """What the fleets of a test reported."""
    return []


@pytest.fixture(scope="session")
def template() -> Path:
    """The folder of a good template of tiny."""
    with fleet_of(Home.of_user(), []) as fleet, fleet.start(ForegroundRequest(GuestSpec())) as guest:
        return template_of(guest)


@pytest.fixture
def nothing_is_kept() -> Iterator[None]:
    """What a run has kept goes, whatever becomes of its test."""
    yield
    reap_kept(Home.of_user().folder("runs"))
    assert not kept_guests()
