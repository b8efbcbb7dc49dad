"""The records of a guest's commands."""

from __future__ import annotations

import logging

import pytest

from pytest_xhyve.guest import transcript
from pytest_xhyve.guest.transcript import LineLogger, log_command
from pytest_xhyve.model.completed import Completed


@pytest.fixture(autouse=True)
def all_records(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=transcript.NAME)


def test_lines_are_logged_when_they_are_complete(caplog: pytest.LogCaptureFixture) -> None:
    log = LineLogger("web", "stdout")
    log.feed(b"one\ntw")
    assert caplog.messages == ["web stdout: one"]
    log.feed(b"o\r\n\x1b[2J\xff")
    log.end()
    log.end()
    assert caplog.messages[1:] == ["web stdout: two", r"web stdout: \x1b[2J\udcff"]


def test_endless_output_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    log = LineLogger("web", "stdout")
    log.feed(b"x" * 100_000)
    log.feed(b"\n" * 20_000)
    assert len(caplog.messages[0]) < 5000
    assert len(caplog.messages) == 10_001
    assert caplog.messages[-1] == "web stdout: further lines are not logged"


@pytest.mark.parametrize(
    ("streamed", "text"),
    [
        (False, "web: exit code 2 after 0.50 s\n  $ ls\n  stdout:\n    \\x1b]0;\n  stderr: (nothing)"),
        (True, "web: exit code 2 after 0.50 s\n  $ ls"),
    ],
)
def test_command_is_logged_with_its_output(caplog: pytest.LogCaptureFixture, streamed: bool, text: str) -> None:
    log_command("web", Completed("ls", 2, "\x1b]0;\n", "", 0.5), streamed=streamed)
    assert caplog.messages == [text]
    log_command("web", Completed("ls", -1, "", "", 0.5), streamed=streamed)
    assert caplog.messages[1] == "web: did not end after 0.50 s\n  $ ls"
