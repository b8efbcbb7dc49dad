"""The fixtures. What they stand on is imported when the first of them is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_xhyve.plugin.selection import as_spec_keys, marker_arguments
from pytest_xhyve.plugin.shared_guests import check_can_reset, resetting
from pytest_xhyve.plugin.stash import ITEM, PREWARMER, SETTINGS, SUMMARY, WITNESS

if TYPE_CHECKING:
    import paramiko

    from pytest_xhyve.fleet.factory import GuestFactory
    from pytest_xhyve.fleet.fleet import Fleet
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.model.machine import Machine
    from pytest_xhyve.model.spec import GuestSpec


@pytest.fixture(scope="session")
def _xhyve_fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """All guests of this process; taken away at its end."""
    from pytest_xhyve.fleet.fleet import Fleet
    from pytest_xhyve.host.home import Home
    from pytest_xhyve.plugin.reporting import Witness
    from pytest_xhyve.plugin.summary import RunSummary
    from pytest_xhyve.report.leaks import find_leaks

    config = request.config
    settings = config.stash[SETTINGS]
    report = _reporter(config)
    gathered = config.stash.setdefault(SUMMARY, RunSummary())
    # First of all, as it shows what goes wrong with the rest. It is there when a plugin runs the last test again.
    if WITNESS not in config.stash:
        witness = config.stash[WITNESS] = Witness(settings, gathered)
        config.pluginmanager.register(witness, "xhyve-witness")
        # The test's set-up has begun.
        witness.pytest_runtest_setup(config.stash[ITEM])
    home = Home.of_user()
    with ExitStack() as stack:
        if settings.prewarm:
            from pytest_xhyve.fleet.prewarmer import silent_ahead
            from pytest_xhyve.plugin.prewarm import prewarming

            report = silent_ahead(report)
        fleet = Fleet(
            settings,
            home,
            report,
            holds_failed=bool(config.getoption("usepdb", False)),
            run=getattr(config, "workerinput", {}).get("testrunuid"),
        )
        # The very lists, which have those too that live until the fleet is closed.
        fleet.times[:], fleet.kept[:] = gathered.times, gathered.kept
        gathered.times, gathered.kept = fleet.times, fleet.kept
        stack.callback(lambda: gathered.look_for_leaks(lambda: find_leaks(home, fleet.run_folder)))
        stack.enter_context(closing(fleet))
        if settings.prewarm:
            stack.enter_context(prewarming(config, fleet, settings.prewarm))
        yield fleet


@pytest.fixture(scope="session")
def xhyve_image(request: pytest.FixtureRequest) -> str:
    """The image that guests are made from: a name or a path; override it to select_hypervisor for a folder."""
    image: str = getattr(request, "param", request.config.stash[SETTINGS].images[0])
    return image


@pytest.fixture(scope="session")
def _xhyve_start(request: pytest.FixtureRequest, _xhyve_fleet: Fleet) -> str | None:
    """How guests start where each test runs on either; otherwise nothing, which leaves it to the settings."""
    start: str | None = getattr(request, "param", None)
    if start == "warm" and _xhyve_fleet.hypervisor.snapshotter is None:
        pytest.skip(f"{_xhyve_fleet.hypervisor.info.name} cannot save a running machine")
    return start


def _guest(request: pytest.FixtureRequest, fleet: Fleet, image: Any, start: str | None) -> Iterator[Guest]:
    from pytest_xhyve.model.spec import GuestSpec

    spec = GuestSpec.parse(**(marker_arguments(request.node) | _param(request))).with_defaults(
        GuestSpec(image=image, start=start)
    )
    if request.scope == "function":
        # It is always fresh; the marker is for the shared guests around it.
        spec = replace(spec, reset=None)
    if spec.reset:
        check_can_reset(request)
    with _start(request, fleet, spec) as guest, resetting(request, fleet.reset_of(guest)):
        yield guest


@pytest.fixture
def xhyve_guest(
    request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str, _xhyve_start: str | None
) -> Iterator[Guest]:
    """A Linux machine of the test's own: a `pytest_xhyve.Guest`, booted and reachable by SSH."""
    yield from _guest(request, _xhyve_fleet, xhyve_image, _xhyve_start)


@pytest.fixture(scope="class")
def xhyve_class_guest(
    request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str, _xhyve_start: str | None
) -> Iterator[Guest]:
    """A guest that the tests of a class share."""
    yield from _guest(request, _xhyve_fleet, xhyve_image, _xhyve_start)


@pytest.fixture(scope="module")
def xhyve_module_guest(
    request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str, _xhyve_start: str | None
) -> Iterator[Guest]:
    """A guest that the tests of a module share."""
    yield from _guest(request, _xhyve_fleet, xhyve_image, _xhyve_start)


@pytest.fixture(scope="session")
def xhyve_session_guest(
    request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str, _xhyve_start: str | None
) -> Iterator[Guest]:
    """A guest that all tests of the run share."""
    yield from _guest(request, _xhyve_fleet, xhyve_image, _xhyve_start)


@pytest.fixture
def xhyve_ssh(xhyve_guest: Guest) -> paramiko.SSHClient:
    """A connected `paramiko.SSHClient` to the test's own guest."""
    return xhyve_guest.ssh


@pytest.fixture(scope="session")
def xhyve_guest_factory(
    request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str, _xhyve_start: str | None
) -> Iterator[GuestFactory]:
    """Makes guests by hand: ``factory(image="tiny", name="web")``; they live until the run ends."""
    from pytest_xhyve.fleet.factory import GuestFactory
    from pytest_xhyve.model.spec import GuestSpec

    with ExitStack() as made:

        def make(spec: GuestSpec) -> Guest:
            return made.enter_context(_start(request, _xhyve_fleet, spec))

        yield GuestFactory(make, GuestSpec(image=xhyve_image, start=_xhyve_start))


def _start(request: pytest.FixtureRequest, fleet: Fleet, spec: GuestSpec) -> Guest:
    item = request.config.stash[ITEM]
    # Those of the test's folder and above. What is made for the whole run goes through those of whoever asks first.
    hook = item.ihook

    def change(machine: Machine) -> Machine:
        changed: Machine | None = hook.pytest_xhyve_machine(machine=machine, request=request)
        return changed or machine

    asked_by = request.node.nodeid or request.scope
    prewarmer = request.config.stash.get(PREWARMER, None)
    if hook.pytest_xhyve_machine.get_hookimpls():
        guest = fleet.start_guest(spec, change=change, asked_by=asked_by)
    elif prewarmer is not None:
        guest = prewarmer.start_guest(spec, asked_by)
    else:
        guest = fleet.start_guest(spec, asked_by=asked_by)
    witness = request.config.stash.get(WITNESS, None)
    if witness is not None:
        witness.watch(guest, request, item)
    try:
        hook.pytest_xhyve_guest_ready(guest=guest, request=request)
    except BaseException as error:
        guest.end(error)
        raise
    return guest


def _param(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What an indirect parameter says: an image, or a dict of the marker's keys."""
    return as_spec_keys(getattr(request, "param", {}))


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
