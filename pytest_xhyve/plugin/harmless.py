"""Make the reports of tests that use guests harmless to the terminal, and such that xdist can send them."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from pytest_xhyve.model.text import printable_but_coloured

# Deeper than any report of pytest.
_DEEPEST = 20


def make_harmless(report: pytest.TestReport) -> None:
    r"""Make all text of *report* printable. Colours stay, since a test may print them.

    A guest's text gets into a report without the plugin: by an assertion, by ``print``, by `record_property`. It may
    also contain bytes that are not UTF-8. xdist cannot send these: the whole run would end with an internal error.

    What the terminal's encoding does not have is written as ``\xb7``. pytest would write the line ends so, too.
    """
    encoding = getattr(sys.__stdout__, "encoding", None) or "utf-8"
    report.longrepr = _cleaned(report.longrepr, encoding)
    report.sections = _cleaned(report.sections, encoding)
    report.user_properties = _cleaned(report.user_properties, "utf-8")


def _cleaned(value: Any, encoding: str, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        return value
    if isinstance(value, str):
        return printable_but_coloured(value).encode(encoding, "backslashreplace").decode(encoding)
    if type(value) in (list, tuple):
        return type(value)(_cleaned(each, encoding, depth + 1) for each in value)
    if type(value).__module__.startswith("_pytest.") and hasattr(value, "__dict__"):
        # A representation of an exception; its parts are such objects, texts and lists of them.
        for name, each in vars(value).items():
            setattr(value, name, _cleaned(each, encoding, depth + 1))
    return value
