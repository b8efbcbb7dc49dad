"""The hooks of pytest that make this a plugin; whatever is heavy is imported by those who need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.settings import OPTIONS, Settings
from pytest_xhyve.plugin import hookspecs
from pytest_xhyve.plugin.fixtures import (
    _xhyve_fleet,
    _xhyve_reset,
    _xhyve_start,
    xhyve_class_guest,
    xhyve_guest,
    xhyve_guest_factory,
    xhyve_image,
    xhyve_module_guest,
    xhyve_session_guest,
    xhyve_ssh,
)
from pytest_xhyve.plugin.selection import (
    base_of,
    check_markers,
    images_to_run_on,
    may_reset,
    starts_either_way,
    wants_guest,
)
from pytest_xhyve.plugin.stash import ITEM, SETTINGS, SUMMARY

# pytest finds fixtures as attributes of the plugin.
__all__ = [
    "_xhyve_fleet",
    "_xhyve_reset",
    "_xhyve_start",
    "xhyve_class_guest",
    "xhyve_guest",
    "xhyve_guest_factory",
    "xhyve_image",
    "xhyve_module_guest",
    "xhyve_session_guest",
    "xhyve_ssh",
]

_OF_WORKERS = "xhyve_gathered"
_WRONG = pytest.StashKey[str]()
_MARKER = (
    "xhyve(image=None, cpus=None, memory=None, name=None, start=None, reset=None): what the test's guest is made of; "
    "on a class or module also that of its shared guest"
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
            **({"action": "store_true"} if option.switch else takes),
        )
        kind: Literal["args", "string"] = "args" if option.repeatable else "string"
        parser.addini(option.ini, f"as {option.flag}", kind, default=None)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    try:
        settings = Settings.load(config)
        if config.getoption("xhyve_executable") is not None:
            from pytest_xhyve.plugin.preflight import check_program

            check_program(settings)
        if "image" in settings.given:
            # Imports the catalog, so only where somebody has asked for guests.
            from pytest_xhyve.plugin.preflight import resolve_images

            settings = resolve_images(settings, config)
        if settings.artifacts is not None:
            base = base_of(settings.given["artifacts"], config)
            settings = replace(settings, artifacts=base / settings.artifacts)
    except XhyveError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[SETTINGS] = settings


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Tell of hypervisor and image at the top, where somebody has asked for guests."""
    return _describe(config) if config.stash[SETTINGS].given else []


def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    """Tell of them after the collection, where only then it is known that a test wants a guest."""
    if config.stash[SETTINGS].given or not any(wants_guest(item) for item in items):
        return []
    return _describe(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    images = images_to_run_on(metafunc, metafunc.config.stash[SETTINGS].images)
    if images:
        metafunc.parametrize(
            "xhyve_image", images, indirect=True, scope="session", ids=[Path(image).stem for image in images]
        )
    if metafunc.config.stash[SETTINGS].start == "both" and starts_either_way(metafunc):
        metafunc.parametrize("_xhyve_start", ["cold", "warm"], indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item, wrong in () if _looks_up(config) else check_markers(items):
        _refuse([item], wrong)
    resettable = [item for item in items if may_reset(item)]
    if resettable:
        from pytest_xhyve.plugin.shared_guests import plan_resets

        plan_resets(resettable)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Look at what the tests that will run make their guests from."""
    runs = not session.config.option.collectonly and not _looks_up(session.config)
    wanting = [item for item in session.items if wants_guest(item)] if runs else []
    if wanting:
        from pytest_xhyve.plugin.preflight import find_wrong

        for concerned, wrong in find_wrong(wanting, session.config.stash[SETTINGS]):
            _refuse(concerned, wrong)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Where guests are made ahead: see what this test and those after it will ask for."""
    if item.config.stash[SETTINGS].prewarm:
        from pytest_xhyve.plugin.prewarm import look_ahead

        look_ahead(item, nextitem)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.config.stash[ITEM] = item
    if (wrong := item.stash.get(_WRONG, None)) is not None:
        pytest.fail(wrong, pytrace=False)


# Not before the last fixture is taken down, which pytest may do in this hook.
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that left something, where that was asked for; in a worker of xdist: hand all to the controller."""
    gathered = session.config.stash.get(SUMMARY, None)
    if gathered is None:
        return
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_OF_WORKERS] = gathered.to_message()
    elif gathered.leaks and session.config.stash[SETTINGS].strict and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """In the controller of xdist: take what a worker hands over; one that crashed hands over nothing."""
    # Of a worker that was interrupted, this is called twice.
    message = getattr(node, "workeroutput", {}).pop(_OF_WORKERS, None)
    if message is not None:
        from pytest_xhyve.plugin.summary import RunSummary

        node.config.stash.setdefault(SUMMARY, RunSummary()).add_message(message)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell of guests that were kept or left, and where their time went, where pytest tells it of tests or with -v."""
    gathered = config.stash.get(SUMMARY, None)
    if gathered is not None:
        verbose = config.get_verbosity() > 0
        durations = verbose or config.getoption("durations") is not None
        strict = config.stash[SETTINGS].strict
        gathered.summarize(terminalreporter, durations=durations, verbose=verbose, strict=strict)


def _refuse(items: Sequence[pytest.Item], wrong: str) -> None:
    """End the run before any test, as *items* ask for something invalid."""
    for item in items:
        if not hasattr(item.config, "workerinput"):
            raise pytest.UsageError(wrong)
        # From here on a worker can tell nobody; as the error of a test, it is seen.
        item.stash[_WRONG] = wrong


def _looks_up(config: pytest.Config) -> bool:
    """Whether fixtures are only looked up; somebody may be about to mend one."""
    return bool(config.getoption("showfixtures") or config.getoption("show_fixtures_per_test"))


def _describe(config: pytest.Config) -> list[str]:
    from pytest_xhyve.plugin.header import describe

    return describe(config.stash[SETTINGS])
