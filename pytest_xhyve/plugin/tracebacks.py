"""Tracebacks of our errors, cut down to the lines of whoever gets them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

import pytest_xhyve
from pytest_xhyve.plugin.pytest_internals import crash_location

# This package, the standard library, and what is installed beside pytest.
_NOT_THE_USERS = (
    Path(pytest_xhyve.__file__).parent,
    Path(contextlib.__file__).parent,
    Path(pytest.__file__).parents[1],
)


def shorten(item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException], report: pytest.TestReport) -> None:
    """Show in *report* only the user's frames of *excinfo*, or only the error where there is none.

    An error of ours says itself what happened; where in the plugin it was raised, and what paramiko thought of it, is
    shown with ``--full-trace``.
    """
    config = item.config
    if config.getoption("fulltrace", False):
        return
    excinfo.traceback = excinfo.traceback.filter(
        lambda entry: not entry.ishidden(excinfo) and _is_the_users(Path(entry.path))
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


def _is_the_users(path: Path) -> bool:
    return not any(folder in path.parents for folder in _NOT_THE_USERS)
