"""The plugin's fixtures. They import what they need when a test uses them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Any

import pytest

from pytest_xhyve.plugin.pytest_internals import suspended_capture
from pytest_xhyve.plugin.stash import ITEM, PREWARMER, RESUMED, SUMMARY, settings_of
from pytest_xhyve.plugin.wanted import stated_cluster, stated_spec

if TYPE_CHECKING:
    import paramiko

    from pytest_xhyve.fleet.factory import GuestFactory
    from pytest_xhyve.fleet.fleet import Fleet
    from pytest_xhyve.fleet.images import ImageBuilder
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.guest.guests import Guests
    from pytest_xhyve.model.cluster import ClusterSpec
    from pytest_xhyve.model.spec import GuestSpec
    from pytest_xhyve.model.values import StartMode
    from pytest_xhyve.plugin.reporting import Reporter


@pytest.fixture(scope="session")
def _xhyve_fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """All guests of this process; they are removed at the end of the session."""
    from pytest_xhyve.fleet.fleet import Fleet
    from pytest_xhyve.host.home import Home
    from pytest_xhyve.plugin.renewing import RenewalHooks
    from pytest_xhyve.plugin.reservation import ReservationHooks
    from pytest_xhyve.report.leaks import find_leaks

    config = request.config
    settings = settings_of(config)
    run = _run_id(config)
    # First, as it reports the errors of the next steps.
    reporter = _get_reporter(config, run)
    home = Home.of_user()
    with ExitStack() as stack:
        fleet = Fleet(
            settings,
            home,
            reporter,
            reason_to_keep=reporter.reason_to_keep,
            hold_failed=bool(config.getoption("usepdb", False)),
            run=run,
        )
        stack.callback(lambda: config.stash[SUMMARY].add_leaks(lambda: find_leaks(home, fleet.run_folder)))
        stack.enter_context(closing(fleet))
        for hooks in (ReservationHooks(fleet), RenewalHooks(reporter.progress)):
            config.pluginmanager.register(hooks)
            stack.callback(config.pluginmanager.unregister, hooks)
        if RESUMED in config.stash:
            stack.enter_context(config.stash[RESUMED].resumed(fleet, reporter.reason_to_keep))
        if settings.prewarm:
            from pytest_xhyve.plugin.prewarm import prewarming

            stack.enter_context(prewarming(config, fleet, settings.prewarm))
        yield fleet


@pytest.fixture(scope="session")
def xhyve_image(request: pytest.FixtureRequest) -> str:
    """The image that guests are cloned from: a name or a path. Override this fixture to choose one for a folder."""
    image: str = getattr(request, "param", settings_of(request.config).images[0])
    return image


@pytest.fixture(scope="session")
def _xhyve_start(request: pytest.FixtureRequest, _xhyve_fleet: Fleet) -> StartMode | None:
    """How this test's guests start with ``--xhyve-start=both``; otherwise None, and the settings decide."""
    start: StartMode | None = getattr(request, "param", None)
    if start == "warm" and _xhyve_fleet.hypervisor.snapshotter is None:
        pytest.skip(f"{_xhyve_fleet.hypervisor.info.name} cannot save a running machine")
    return start


@pytest.fixture
def _xhyve_reset(request: pytest.FixtureRequest) -> None:
    """Resets the test's shared guests to the state that the shared fixtures left."""
    from pytest_xhyve.plugin.shared_guests import reset_before_test

    reset_before_test(request)


def _yield_guest(request: pytest.FixtureRequest, fleet: Fleet, image: Any, start: StartMode | None) -> Iterator[Guest]:
    from pytest_xhyve.model.spec import GuestSpec
    from pytest_xhyve.plugin.reservation import reserve_slots
    from pytest_xhyve.plugin.shared_guests import resetting

    item = request.config.stash[ITEM]
    reserve_slots(item, fleet)
    spec = stated_spec(item, str(request.fixturename)).with_defaults(GuestSpec(image=image, start=start))
    with _start_guest(request, fleet, spec) as guest, resetting(request, [guest], [fleet.reset_of(guest)]):
        yield guest


@pytest.fixture
def xhyve_guest(
    request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str, _xhyve_start: StartMode | None
) -> Iterator[Guest]:
    """A Linux machine of the test's own: a `pytest_xhyve.Guest`, started, and reachable over SSH."""
    yield from _yield_guest(request, _xhyve_fleet, xhyve_image, _xhyve_start)


@pytest.fixture(scope="class")
def xhyve_class_guest(
    request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str, _xhyve_start: StartMode | None
) -> Iterator[Guest]:
    """A guest that the tests of a class share."""
    yield from _yield_guest(request, _xhyve_fleet, xhyve_image, _xhyve_start)


@pytest.fixture(scope="module")
def xhyve_module_guest(
    request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str, _xhyve_start: StartMode | None
) -> Iterator[Guest]:
    """A guest that the tests of a module share."""
    yield from _yield_guest(request, _xhyve_fleet, xhyve_image, _xhyve_start)


@pytest.fixture(scope="session")
def xhyve_session_guest(
    request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str, _xhyve_start: StartMode | None
) -> Iterator[Guest]:
    """A guest that all tests of the run share."""
    yield from _yield_guest(request, _xhyve_fleet, xhyve_image, _xhyve_start)


@pytest.fixture(scope="session")
def xhyve_run_guest(
    request: pytest.FixtureRequest,
    _xhyve_fleet: Fleet,
    xhyve_image: str,
    _xhyve_start: StartMode | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Guest]:
    """A guest that all tests of the run share, also those of other workers of pytest-xdist, at the same time."""
    from pytest_xhyve.model.spec import GuestSpec
    from pytest_xhyve.plugin.run_guest import running

    spec = stated_spec(request.config.stash[ITEM], str(request.fixturename))
    spec = spec.with_defaults(GuestSpec(image=xhyve_image, start=_xhyve_start))
    with running(request, _xhyve_fleet, spec, tmp_path_factory.getbasetemp()) as guest:
        yield guest


def _yield_guests(
    request: pytest.FixtureRequest, fleet: Fleet, image: Any, start: StartMode | None
) -> Iterator[Guests]:
    from pytest_xhyve.model.spec import GuestSpec
    from pytest_xhyve.plugin.reservation import reserve_slots
    from pytest_xhyve.plugin.shared_guests import resetting

    item = request.config.stash[ITEM]
    spec = stated_cluster(item, str(request.fixturename)).with_defaults(GuestSpec(image=image, start=start))
    reserve_slots(item, fleet)
    with (
        _start_cluster(request, fleet, spec) as guests,
        resetting(request, list(guests), map(fleet.reset_of, guests), guests.heal),
    ):
        yield guests


@pytest.fixture
def xhyve_guests(
    request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str, _xhyve_start: StartMode | None
) -> Iterator[Guests]:
    """The guests that the marker ``xhyve_guests`` names, a `pytest_xhyve.Guests`: started together, on one LAN."""
    yield from _yield_guests(request, _xhyve_fleet, xhyve_image, _xhyve_start)


@pytest.fixture(scope="class")
def xhyve_class_guests(
    request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str, _xhyve_start: StartMode | None
) -> Iterator[Guests]:
    """The guests of a cluster that the tests of a class share."""
    yield from _yield_guests(request, _xhyve_fleet, xhyve_image, _xhyve_start)


@pytest.fixture(scope="module")
def xhyve_module_guests(
    request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str, _xhyve_start: StartMode | None
) -> Iterator[Guests]:
    """The guests of a cluster that the tests of a module share."""
    yield from _yield_guests(request, _xhyve_fleet, xhyve_image, _xhyve_start)


@pytest.fixture(scope="session")
def xhyve_session_guests(
    request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str, _xhyve_start: StartMode | None
) -> Iterator[Guests]:
    """The guests of a cluster that all tests of the run share."""
    yield from _yield_guests(request, _xhyve_fleet, xhyve_image, _xhyve_start)


@pytest.fixture
def xhyve_ssh(xhyve_guest: Guest) -> paramiko.SSHClient:
    """A connected `paramiko.SSHClient` to the test's own guest."""
    return xhyve_guest.ssh


@pytest.fixture(scope="session")
def xhyve_guest_factory(
    request: pytest.FixtureRequest, _xhyve_fleet: Fleet, xhyve_image: str, _xhyve_start: StartMode | None
) -> Iterator[GuestFactory]:
    """Makes guests in the test's own code: ``factory(image="tiny", name="web")``; they live until the run ends."""
    from pytest_xhyve.fleet.factory import GuestFactory
    from pytest_xhyve.model.spec import GuestSpec
    from pytest_xhyve.plugin.shared_guests import resetting, watch_fixtures

    fleet = _xhyve_fleet
    watch_fixtures(request.config)
    numbers = count(1)
    with ExitStack() as made:

        def next_name() -> str:
            # A later guest may have the name of one that was removed.
            return f"{request.fixturename} {next(numbers)}"

        def make(spec: GuestSpec) -> Guest:
            guest = made.enter_context(_start_guest(request, fleet, spec.anchored(request.config.rootpath)))
            made.enter_context(resetting(request, [guest], [fleet.reset_of(guest)], name=next_name()))
            return guest

        def make_cluster(spec: ClusterSpec) -> Guests:
            guests = made.enter_context(_start_cluster(request, fleet, spec.anchored(request.config.rootpath)))
            resets = map(fleet.reset_of, guests)
            made.enter_context(resetting(request, list(guests), resets, guests.heal, name=next_name()))
            return guests

        yield GuestFactory(make, make_cluster, GuestSpec(image=xhyve_image, start=_xhyve_start))


@pytest.fixture(scope="session")
def xhyve_images(request: pytest.FixtureRequest, _xhyve_fleet: Fleet) -> ImageBuilder:
    """Builds images in the test's own code: ``xhyve_images.build(extends="debian12", run=["…"])``; they are kept."""
    from pytest_xhyve.fleet.images import ImageBuilder

    return ImageBuilder(_xhyve_fleet.catalog.build, request.config.rootpath)


def _start_guest(request: pytest.FixtureRequest, fleet: Fleet, spec: GuestSpec) -> Guest:
    from pytest_xhyve.fleet.request import ForegroundRequest
    from pytest_xhyve.plugin.machine_hook import machine_hook

    item = request.config.stash[ITEM]
    requested_by = request.node.nodeid or request.scope
    # The hooks of the test's folder and above; for a session's guest, those of the first test that asks.
    hook = machine_hook(item, request)
    prewarmer = request.config.stash.get(PREWARMER, None)
    resumed = request.config.stash.get(RESUMED, None)
    saved = None if resumed is None else resumed.take_guest(spec)
    if saved is not None:
        guest = saved
    elif hook is None and prewarmer is not None:
        guest = prewarmer.start_guest(spec, requested_by)
    else:
        guest = fleet.start(ForegroundRequest(spec, requested_by, hook))
    _announce(request, guest, [guest])
    return guest


def _start_cluster(request: pytest.FixtureRequest, fleet: Fleet, spec: ClusterSpec) -> Guests:
    from pytest_xhyve.fleet.cluster import start_cluster
    from pytest_xhyve.plugin.machine_hook import machine_hook

    hook = machine_hook(request.config.stash[ITEM], request)
    resumed = request.config.stash.get(RESUMED, None)
    saved = None if resumed is None else resumed.take_cluster(spec)
    guests = saved or start_cluster(fleet, spec, request.node.nodeid or request.scope, hook)
    _announce(request, guests, guests)
    return guests


def _announce(request: pytest.FixtureRequest, started: Guest | Guests, guests: Iterable[Guest]) -> None:
    """Let the reporter and the hooks of the test's folder know that *guests* are ready.

    If a hook fails, remove *started*: the guest, or the cluster.
    """
    from pytest_xhyve.plugin.reporting import REPORTER

    item = request.config.stash[ITEM]
    reporter = request.config.stash.get(REPORTER, None)
    try:
        for guest in guests:
            if reporter is not None:
                reporter.track(guest, request, item)
                if request.config.get_verbosity() > 0:
                    reporter.started(guest)
            item.ihook.pytest_xhyve_guest_ready(guest=guest, request=request)
    except BaseException as error:
        started._keep_or_remove(error)
        raise


def _get_reporter(config: pytest.Config, run: str) -> Reporter:
    """The reporter of the run; it exists already if a plugin runs the last test again."""
    from pytest_xhyve.plugin.other_reports import active_reports
    from pytest_xhyve.plugin.reporting import REPORTER, Reporter
    from pytest_xhyve.plugin.summary import RunSummary

    if REPORTER not in config.stash:
        summary = config.stash.setdefault(SUMMARY, RunSummary())
        reporter = config.stash[REPORTER] = Reporter(
            settings_of(config), summary, line_printer(config), run, active_reports(config)
        )
        config.pluginmanager.register(reporter, "xhyve-reporter")
        # It was registered too late for this hook of the test that is being set up.
        reporter.pytest_runtest_setup(config.stash[ITEM])
    return config.stash[REPORTER]


def _run_id(config: pytest.Config) -> str:
    """An id that all processes of the run share, and no other run has."""
    import secrets

    from pytest_xhyve.plugin.workers import worker_input

    return worker_input(config).get("testrunuid") or secrets.token_hex(8)


def line_printer(config: pytest.Config) -> Callable[[str], None]:
    """A function that prints a line at once, although pytest captures output."""
    from pytest_xhyve.model.text import printable
    from pytest_xhyve.plugin.workers import worker_input

    terminal = config.pluginmanager.get_plugin("terminalreporter")
    # The guests of a cluster start in threads, while pytest waits.
    one_at_a_time = Lock()

    worker = worker_input(config).get("workerid", "")
    # See `Events.progress`.
    all_steps = config.get_verbosity() > 0

    def show(line: str) -> None:
        if line.startswith("  ") and not all_steps:
            return
        with one_at_a_time, suspended_capture(config):
            if worker:
                # What its terminal reporter prints is lost, but its standard error is the controller's, which may be
                # in the middle of a line of dots.
                if sys.__stderr__ is not None:
                    sys.__stderr__.write(f"\n[{worker}] xhyve: {printable(line)}\n")
                    sys.__stderr__.flush()
            elif terminal is not None:
                terminal.ensure_newline()
                terminal.write_line(f"xhyve: {printable(line)}")
                terminal.flush()

    return show
