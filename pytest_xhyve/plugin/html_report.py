"""Write the HTML page of the run (``--xhyve-report``): now and then while it runs, and at its end."""

from __future__ import annotations

import os
import platform
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.plugin.page_extras import ATTRIBUTE
from pytest_xhyve.report.html import render
from pytest_xhyve.report.run_data import Outcome, RunData

NAME = "xhyve-html-report"
_MAIN = "main"
# A page is written again after this time, and after so many times what writing it took: 1 % of the run at most.
_LEAST_SECONDS = 5.0
_SHARE = 100


def check_writable(path: Path, source: str) -> None:
    """Check that the page can be written at *path*, and create its folder.

    Args:
        path: the page.
        source: what names it, for the message.

    Raises:
        ConfigurationError: the page cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(0, f"cannot write to {path.parent}")
    except OSError as error:
        raise ConfigurationError(f"{source}: cannot write {path}: {error.strerror}") from error


class PageWriter:
    """Collects the reports of all tests, in the xdist controller also those of its workers, and writes the page.

    Args:
        path: the page.
        config: the run's configuration.
    """

    def __init__(self, path: Path, config: pytest.Config) -> None:
        self._path = path
        self._data = RunData()
        self._about = (
            f"pytest {pytest.__version__}, Python {platform.python_version()}, {platform.node()}: "
            + " ".join(["pytest", *config.invocation_params.args])
        )
        self._plugins = config.pluginmanager
        self._written = monotonic()
        self._took = 0.0
        self._problem = ""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        # With xdist, this does not name the worker.
        if not self._plugins.has_plugin("dsession"):
            self._data.begin_test(nodeid, _MAIN)
            self._write_sometimes()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        node: Any = getattr(report, "node", None)
        failed = report.failed
        self._data.add_step(
            report.nodeid,
            _MAIN if node is None else node.gateway.id,
            report.when or "",
            _outcome(report),
            (report.start, report.stop),
            report.longreprtext if failed else "",
            report.sections if failed else (),
            getattr(report, ATTRIBUTE, {}),
        )
        self._write_sometimes()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        self._data.ended = time.time()
        self._write(finished=True)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._problem:
            terminalreporter.write_line(f"xhyve: cannot write {self._path}: {self._problem}")
        else:
            terminalreporter.write_line(f"xhyve: report at {self._path.as_uri()}")

    def _write_sometimes(self) -> None:
        if monotonic() - self._written > max(_LEAST_SECONDS, _SHARE * self._took):
            self._write(finished=False)

    def _write(self, *, finished: bool) -> None:
        begin = monotonic()
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}-{secrets.token_hex(4)}")
        try:
            text = render(self._data, about=self._about, finished=finished)
            # Two runs may write one page: it is always that of one of them.
            fresh.write_text(text, errors="backslashreplace")
            fresh.replace(self._path)
            self._problem = ""
        except OSError as error:
            with suppress(OSError):
                fresh.unlink()
            self._problem = error.strerror or str(error)
        self._written = monotonic()
        self._took = self._written - begin


def _outcome(report: pytest.TestReport) -> Outcome:
    """What *report* means for its test."""
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    if report.failed:
        return "error" if report.when in ("setup", "teardown") else "failed"
    if report.skipped:
        return "skipped"
    return "passed" if report.when == "call" else "running"
