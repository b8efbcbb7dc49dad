"""Shorten the tracebacks of the plugin's errors to the lines of the user's code."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

import pytest_xhyve
from pytest_xhyve.plugin.pytest_internals import crash_location

# This package, the standard library, and what is installed beside pytest.
_HIDDEN_FOLDERS = (
    Path(pytest_xhyve.__file__).parent,
    Path(contextlib.__file__).parent,
    Path(pytest.__file__).parents[1],
)


def shorten_traceback(
    item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException], report: pytest.TestReport
) -> None:
    """Show in *report* only the user's frames of *excinfo*, or only the error if there are none.

    The plugin's errors state what happened. With ``--full-trace``, pytest shows all frames and causes.
    """
    config = item.config
    if config.getoption("fulltrace", False):
        return
    excinfo.traceback = excinfo.traceback.filter(
        lambda entry: not entry.ishidden(excinfo) and _is_user_code(Path(entry.path))
    )
    style = config.getoption("tbstyle", "auto")
    shown = excinfo.getrepr(
        style="long" if style == "auto" else style,
        showlocals=config.getoption("showlocals", False),
        funcargs=True,
        tbfilter=False,
        chain=False,
    )
    if shown.reprcrash is None:
        shown.reprcrash = crash_location(item, excinfo.exconly(tryshort=True))
    report.longrepr = shown


def _is_user_code(path: Path) -> bool:
    return not any(folder in path.parents for folder in _HIDDEN_FOLDERS)
