"""The fixtures. What they stand on is imported when the first of them is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

from pytest_xhyve.selection import marked
from pytest_xhyve.settings import Settings

if TYPE_CHECKING:
    import paramiko

    from pytest_xhyve.fleet import Fleet
    from pytest_xhyve.guest import Guest
    from pytest_xhyve.spec import GuestFactory, GuestSpec

SETTINGS = pytest.StashKey[Settings]()
"""Where a `pytest.Config` keeps the settings of its run."""


@pytest.fixture(scope="session")
def _xhyve_fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """All guests of this process; taken away at its end."""
    from pytest_xhyve.fleet import Fleet
    from pytest_xhyve.home import Home

    with closing(Fleet(request.config.stash[SETTINGS], Home.of_user(), _reporter(request.config))) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def xhyve_image(request: pytest.FixtureRequest) -> str:
    """The image that guests are made from: a name or a path; override it to choose for a folder."""
    image: str = getattr(request, "param", request.config.stash[SETTINGS].images[0])
    return image


def _guest(request: pytest.FixtureRequest, fleet: Fleet, image: Any) -> Iterator[Guest]:
    from pytest_xhyve.spec import GuestSpec

    spec = GuestSpec.parse(**(marked(request.node) | _param(request))).over(GuestSpec(image=image))
    with _start(request, fleet, spec) as guest:
        yield guest


@pytest.fixture
def xhyve_guest(request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str) -> Iterator[Guest]:
    """A Linux machine of the test's own: a `pytest_xhyve.Guest`, booted and reachable by SSH."""
    yield from _guest(request, _xhyve_fleet, xhyve_image)


@pytest.fixture(scope="class")
def xhyve_class_guest(request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str) -> Iterator[Guest]:
    """A guest that the tests of a class share."""
    yield from _guest(request, _xhyve_fleet, xhyve_image)


@pytest.fixture(scope="module")
def xhyve_module_guest(request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str) -> Iterator[Guest]:
    """A guest that the tests of a module share."""
    yield from _guest(request, _xhyve_fleet, xhyve_image)


@pytest.fixture(scope="session")
def xhyve_session_guest(request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str) -> Iterator[Guest]:
    """A guest that all tests of the run share."""
    yield from _guest(request, _xhyve_fleet, xhyve_image)


@pytest.fixture
def xhyve_ssh(xhyve_guest: Guest) -> paramiko.SSHClient:
    """A connected `paramiko.SSHClient` to the test's own guest."""
    return xhyve_guest.ssh


@pytest.fixture(scope="session")
def xhyve_guest_factory(
    request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str
) -> Iterator[GuestFactory]:
    """Makes guests by hand: ``factory(image="tiny", name="web")``; they live until the run ends."""
    from pytest_xhyve.spec import GuestFactory, GuestSpec

    with ExitStack() as made:

        def make(spec: GuestSpec) -> Guest:
            return made.enter_context(_start(request, _xhyve_fleet, spec))

        yield GuestFactory(make, GuestSpec(image=xhyve_image))


def _start(request: pytest.FixtureRequest, fleet: Fleet, spec: GuestSpec) -> Guest:
    hook = request.config.hook
    guest = fleet.start_guest(
        spec, change=lambda machine: hook.pytest_xhyve_machine(machine=machine, request=request) or machine
    )
    try:
        hook.pytest_xhyve_guest_ready(guest=guest, request=request)
    except BaseException:
        guest.remove()
        raise
    return guest


def _param(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What an indirect parameter says: an image, or a dict of the marker's keys."""
    param = getattr(request, "param", {})
    return dict(param) if isinstance(param, dict) else {"image": param}


def _reporter(config: pytest.Config) -> Callable[[str], None]:
    """A function that shows a line at once, though pytest captures what is printed."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")

    def report(line: str) -> None:
        if terminal is None:
            return
        with ExitStack() as stack:
            if capture is not None:
                stack.enter_context(capture.global_and_fixture_disabled())
            terminal.ensure_newline()
            terminal.write_line(f"xhyve: {line}")
            terminal.flush()

    return report
