from __future__ import annotations

import io
import sys

import pytest

from pytest_xhyve.plugin.harmless import make_harmless


def report(text: str) -> pytest.TestReport:
    return pytest.TestReport(
        "test_it.py::test", ("test_it.py", 1, "test"), {}, "failed", text, "call", [("title", text)]
    )


def test_text_that_the_terminal_cannot_show_keeps_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stdout__", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    made = report("one \xb7 two\nthree \u2192")
    make_harmless(made)
    assert made.longrepr == "one \\xb7 two\nthree \\u2192"
    assert made.sections == [("title", "one \\xb7 two\nthree \\u2192")]


def test_text_that_it_can_show_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), None):
        monkeypatch.setattr(sys, "__stdout__", stream)
        made = report("one \xb7 two\n\x1b[31mred\x1b[0m")
        make_harmless(made)
        assert made.longrepr == "one \xb7 two\n\x1b[31mred\x1b[0m"
