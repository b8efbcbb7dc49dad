"""What is told of things that take long, on a terminal and elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
import time

import pytest
from waiting import becomes

from pytest_xhyve.cli.progress import Progress

SOON = 0.05


def is_shown(capsys: pytest.CaptureFixture[str], text: str) -> bool:
    seen = ""

    def look() -> bool:
        nonlocal seen
        seen += capsys.readouterr().err
        return text in seen

    return becomes(look, 10)


def test_what_is_quick_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    before = set(threading.enumerate())
    with Progress(on_terminal=False).activity("doing it"):
        pass
    assert capsys.readouterr() == ("", "")
    # Nothing is left that would tell of it later.
    assert becomes(lambda: set(threading.enumerate()) <= before)


def test_beginning_and_end_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(on_terminal=False, delay=SOON).activity("doing it"):
        assert is_shown(capsys, "doing it …\n")
    assert capsys.readouterr() == ("", "doing it: done after 0 s\n")


def test_failure_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with Progress(on_terminal=False, delay=SOON).activity("doing it"):
            assert is_shown(capsys, "doing it …\n")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert capsys.readouterr().err == "doing it: failed after 0 s\n"


def test_step_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    # On a busy host, the step needs a moment.
    progress = Progress(on_terminal=False, delay=10 * SOON)
    progress.step("of nothing")
    with progress.activity("doing it"):
        progress.step("half of it")
        assert is_shown(capsys, "doing it: half of it …\n")


def test_lines_are_enough(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(on_terminal=False, delay=SOON)
    with progress.activity("doing it"):
        progress.line("doing it with [brackets]")
        time.sleep(4 * SOON)
    assert capsys.readouterr().err == "doing it with [brackets]\n"


def test_line_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(on_terminal=False).line("said")
    assert capsys.readouterr() == ("", "said\n")


ON_TERMINAL = """
import sys, time
from pytest_xhyve.cli.progress import Progress
assert "rich" not in sys.modules
progress = Progress(delay=0.05)
with progress.activity("doing it"):
    while progress._shown is None:
        time.sleep(0.01)
    time.sleep(float(sys.argv[1]))
    progress.line("said with [brackets]")
    progress.step("half of it")
    time.sleep(0.3)
print("on standard output", "rich" in sys.modules)
"""


def on_terminal(term: str, seconds: float) -> tuple[str, bytes]:
    """What the script says on a terminal as its standard error, and on standard output.

    It works for *seconds* more once the terminal shows what it does.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ON_TERMINAL, str(seconds)],
        env=os.environ | {"TERM": term},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    text = b""
    try:
        while data := os.read(ours, 4096):
            text += data
    except OSError:
        pass  # the other side is closed
    finally:
        os.close(ours)
    return text.decode(), process.communicate()[0]


def test_terminal_has_a_line_that_goes() -> None:
    said, output = on_terminal("xterm", 1.0)
    assert output == b"on standard output True\n"
    # How long it has been going on is counted on, from whatever second in which a busy host comes to show the line.
    seconds = [int(shown) for shown in re.findall(r"doing it(?:: half of it)?  (\d+) s", said)]
    assert seconds == sorted(seconds)
    assert re.search(r"doing it  \d+ s", said)
    assert re.search(r"doing it: half of it  [1-9]\d* s", said)
    assert "said with [brackets]" in said
    # The cursor is back, and the line is gone.
    assert said.index("\x1b[?25l") < said.index("said with") < said.rindex("\x1b[?25h")
    assert "\x1b[2K" in said[said.rindex("half of it") :]


def test_terminal_that_cannot_go_back() -> None:
    said, output = on_terminal("dumb", 0)
    assert output == b"on standard output False\n"
    assert said.splitlines() == ["doing it …", "said with [brackets]"]
