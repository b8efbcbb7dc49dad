"""The plugin's implementations of pytest's hooks. They import heavy modules only when they need them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_xhyve.model.options import OPTIONS, is_any_given
from pytest_xhyve.plugin import hookspecs
from pytest_xhyve.plugin.fixtures import (
    _xhyve_fleet,
    _xhyve_reset,
    _xhyve_start,
    xhyve_class_guest,
    xhyve_class_guests,
    xhyve_guest,
    xhyve_guest_factory,
    xhyve_guests,
    xhyve_image,
    xhyve_images,
    xhyve_module_guest,
    xhyve_module_guests,
    xhyve_run_guest,
    xhyve_session_guest,
    xhyve_session_guests,
    xhyve_ssh,
)
from pytest_xhyve.plugin.stash import ITEM, SETTINGS, SHARED_RUN, SUMMARY, is_worker, settings_of
from pytest_xhyve.plugin.wanted import CLUSTER_MARKER, IMAGE_FIXTURE, MARKER, restriction_arguments, wants_guest

# pytest finds fixtures as attributes of the plugin.
__all__ = [
    "_xhyve_fleet",
    "_xhyve_reset",
    "_xhyve_start",
    "xhyve_class_guest",
    "xhyve_class_guests",
    "xhyve_guest",
    "xhyve_guest_factory",
    "xhyve_guests",
    "xhyve_image",
    "xhyve_images",
    "xhyve_module_guest",
    "xhyve_module_guests",
    "xhyve_run_guest",
    "xhyve_session_guest",
    "xhyve_session_guests",
    "xhyve_ssh",
]

_PROBLEM = pytest.StashKey[str]()
_MARKER = (
    "xhyve(image=None, name=None, cpus=None, memory=None, disks=None, disk_size=None, firmware=None, network=None, "
    "start=None, reset=None, power_cuts=None, shares=None, only=None, skip_on=None): describes the test's guest; "
    "on a class or module, also its shared guest"
)
_CLUSTER_MARKER = (
    "xhyve_guests(nodes=None, lans=None, reset=None, NAME=IMAGE or dict of the keys of xhyve, ...): describes the "
    "guests of a cluster, by their names"
)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("xhyve", "disposable Linux guests (pytest-xhyve)")
    for option in OPTIONS:
        takes: dict[str, Any] = {"action": "append" if option.repeatable else "store", "metavar": option.metavar}
        group.addoption(
            option.flag,
            dest=option.ini,
            default=None,
            help=option.help + (f"; {option.variable} in the environment" if option.environment else ""),
            **({"action": "store_true"} if option.switch else takes | _bare(option.value_if_bare)),
        )
        kind: Literal["args", "string"] = "args" if option.repeatable else "string"
        parser.addini(option.ini, f"as {option.flag}", kind, default=None)


def _bare(value: str | None) -> dict[str, Any]:
    """What lets an option have *value* if it is given without one; None if it needs one."""
    # A list, for `separate_from_tests`.
    return {} if value is None else {"action": "append", "nargs": "?", "const": value}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    config.addinivalue_line("markers", _CLUSTER_MARKER)
    bare = [option for option in OPTIONS if option.value_if_bare is not None and config.getoption(option.ini)]
    if bare:
        from pytest_xhyve.plugin.bare_option import separate_from_tests

        separate_from_tests(bare, config)
    images: tuple[str, ...] = ()
    if is_worker(config) or is_any_given(config):
        images = _read_settings(config)
    runs_elsewhere = any(spec.rpartition("*")[2] != "popen" for spec in config.getoption("tx", None) or ())
    if runs_elsewhere and not is_worker(config):
        from pytest_xhyve.plugin.other_hosts import NAME, OtherHosts

        # As the user wrote them: a path may be another one on the other host.
        config.pluginmanager.register(OtherHosts(config, images), NAME)


def _read_settings(config: pytest.Config) -> tuple[str, ...]:
    """Read and check what the user has set; return the images, as the user wrote them, or nothing."""
    from pytest_xhyve.model.errors import XhyveError
    from pytest_xhyve.model.settings import Settings
    from pytest_xhyve.plugin.resolve_settings import resolve_settings
    from pytest_xhyve.plugin.workers import receive_settings

    try:
        given = receive_settings(Settings.load(config), config)
        settings = config.stash[SETTINGS] = resolve_settings(given, config) if given.given else given
    except XhyveError as error:
        raise pytest.UsageError(str(error)) from error
    if settings.report is not None and not is_worker(config):
        from pytest_xhyve.plugin.html_report import NAME, PageWriter

        config.pluginmanager.register(PageWriter(settings.report, config), NAME)
    return given.images if "image" in given.given else ()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Show hypervisor and image in the header if an option of the plugin is set."""
    settings = config.stash.get(SETTINGS, None)
    return _header_lines(config) if settings is not None and settings.given else []


def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    """Show them after the collection if no option is set, but a test asks for a guest."""
    if not any(wants_guest(item) for item in items) or settings_of(config).given:
        return []
    return _header_lines(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # Each guest's fixture requests this one.
    if IMAGE_FIXTURE not in metafunc.fixturenames:
        return
    from pytest_xhyve.plugin.parametrization import images_to_run_on, starts_either_way

    images = images_to_run_on(metafunc, settings_of(metafunc.config).images)
    if images:
        metafunc.parametrize(
            "xhyve_image", images, indirect=True, scope="session", ids=[Path(image).stem for image in images]
        )
    if settings_of(metafunc.config).start == "both" and starts_either_way(metafunc):
        metafunc.parametrize("_xhyve_start", ["cold", "warm"], indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    concerned = [item for item in items if wants_guest(item) or _has_marker(item)]
    if not concerned:
        return
    from pytest_xhyve.plugin.selection import check_markers, may_reset

    for item, problem in () if _only_lists_fixtures(config) else check_markers(concerned):
        _reject_tests([item], problem)
    restricted = [item for item in concerned if _PROBLEM not in item.stash and restriction_arguments(item)]
    if restricted and not _only_lists_fixtures(config):
        from pytest_xhyve.plugin.restricted import skip_restricted

        skip_restricted(restricted, config, settings_of(config))
    resettable = [item for item in concerned if may_reset(item)]
    if resettable:
        from pytest_xhyve.plugin.shared_guests import plan_resets

        plan_resets(resettable)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Check the images of the tests that will run."""
    runs = not session.config.option.collectonly and not _only_lists_fixtures(session.config)
    wanting = [item for item in session.items if wants_guest(item)] if runs else []
    if wanting:
        from pytest_xhyve.plugin.preflight import find_problems

        settings, problems = find_problems(wanting, settings_of(session.config))
        session.config.stash[SETTINGS] = settings
        for concerned, problem in problems:
            _reject_tests(concerned, problem)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Let the prewarmer know which guests this test and the next ones will ask for."""
    settings = item.config.stash.get(SETTINGS, None)
    if settings is not None and settings.prewarm:
        from pytest_xhyve.plugin.prewarm import expect_guests

        expect_guests(item, nextitem)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.config.stash[ITEM] = item
    if (problem := item.stash.get(_PROBLEM, None)) is not None:
        pytest.fail(problem, pytrace=False)


# Last, as pytest may tear down the last fixtures in this hook.
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With ``--xhyve-strict``, fail a run that left something; an xdist worker sends its summary to the controller."""
    summary = session.config.stash.get(SUMMARY, None)
    if summary is None:
        return
    from pytest_xhyve.plugin.workers import RUN_KEY, SUMMARY_KEY, worker_output

    output = worker_output(session.config)
    if output is not None:
        output[SUMMARY_KEY] = summary.to_message()
        output[RUN_KEY] = session.config.stash.get(SHARED_RUN, None)
    elif summary.leaks and settings_of(session.config).strict and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """In the xdist controller, send a worker the password that the user was asked for: a worker has no terminal."""
    settings = node.config.stash.get(SETTINGS, None)
    if settings is not None and settings.password is not None:
        from pytest_xhyve.plugin.workers import PASSWORD_KEY

        node.workerinput[PASSWORD_KEY] = settings.password.reveal()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """In the xdist controller, add the summary of a worker; one that crashed sends none."""
    from pytest_xhyve.plugin.workers import RUN_KEY, SUMMARY_KEY

    run = getattr(node, "workeroutput", {}).get(RUN_KEY)
    if run is not None:
        from pytest_xhyve.plugin.run_guest import end_guests

        node.config.add_cleanup(partial(end_guests, run))
    # xdist calls this twice for a worker that was interrupted.
    message = getattr(node, "workeroutput", {}).pop(SUMMARY_KEY, None)
    if message is not None:
        from pytest_xhyve.plugin.summary import RunSummary

        node.config.stash.setdefault(SUMMARY, RunSummary()).add_message(message)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show kept guests and leftovers; with ``--durations`` or ``-v``, also the guests' durations."""
    summary = config.stash.get(SUMMARY, None)
    if summary is not None:
        verbose = config.get_verbosity() > 0
        durations = verbose or config.getoption("durations") is not None
        strict = settings_of(config).strict
        summary.summarize(terminalreporter, durations=durations, verbose=verbose, strict=strict)
        if os.environ.get("GITHUB_STEP_SUMMARY"):
            from pytest_xhyve.plugin.job_summary import write_job_summary

            write_job_summary(terminalreporter, summary)


def _has_marker(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(marker) is not None for marker in (MARKER, CLUSTER_MARKER))


def _reject_tests(items: Sequence[pytest.Item], problem: str) -> None:
    """End the run before any test, as *items* ask for something invalid; in an xdist worker, fail *items*.

    Raises:
        pytest.UsageError: not in a worker; its message is *problem*.
    """
    for item in items:
        if not is_worker(item.config):
            raise pytest.UsageError(problem)
        # The controller does not show a worker's usage error, but the error of a test.
        item.stash[_PROBLEM] = problem


def _only_lists_fixtures(config: pytest.Config) -> bool:
    """Whether pytest only lists fixtures: the user may need the list to correct a marker."""
    return bool(config.getoption("showfixtures") or config.getoption("show_fixtures_per_test"))


def _header_lines(config: pytest.Config) -> list[str]:
    from pytest_xhyve.plugin.header import header_lines

    return header_lines(settings_of(config))
