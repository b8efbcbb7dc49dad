"""A child that has our streams, and signals that end us: with programs that stand for ssh."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from waiting import becomes

from pytest_xhyve.cli.ssh_client import TerminationSignals, find_ssh, running
from pytest_xhyve.model.errors import XhyveError

SH = "/bin/sh"


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -PIPE $$", 141)]
)
def test_exit_code_is_as_a_shell_has_it(script: str, code: int) -> None:
    with running([SH, "-c", script], TerminationSignals()) as client:
        assert client.wait(10) == code
        assert client.wait(0) == code


def test_waiting_ends() -> None:
    with running([SH, "-c", "exec sleep 60"], TerminationSignals()) as client:
        assert client.wait(0.05) is None
    assert client.wait(0) == 143


def test_what_will_not_end_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    with running(
        [SH, "-c", f"trap '' TERM; touch {ready}; while :; do sleep 0.05; done"], TerminationSignals()
    ) as client:
        assert becomes(ready.exists, 10)
    assert client.wait(0) == 137


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGCHLD), signal.getsignal(signal.SIGTERM)
    with TerminationSignals() as signals, running([SH, "-c", "true"], signals) as client:
        client.wait(10)
    assert (signal.getsignal(signal.SIGCHLD), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_us_and_the_child(number: signal.Signals, tmp_path: Path) -> None:
    begin = time.monotonic()
    told = tmp_path / "pid"
    script = f"trap '' INT QUIT; echo $$ > {told}; kill -{number.value} $PPID; exec sleep 60"
    with TerminationSignals() as signals:

        def run() -> None:
            with running([SH, "-c", script], signals) as client:
                client.wait(30)

        with pytest.raises(SystemExit) as ended:
            run()
    assert ended.value.code == 128 + number
    assert not psutil.pid_exists(int(told.read_text()))
    assert time.monotonic() - begin < 5


def test_signal_while_the_child_is_started_waits_for_it() -> None:
    done = []
    with TerminationSignals() as signals:

        def make() -> None:
            with signals.blocked():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("made")
            signals.raise_blocked()
            done.append("went on")

        with pytest.raises(SystemExit) as ended:
            make()
    assert (ended.value.code, done) == (143, ["made"])


def test_ignored_signal_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with TerminationSignals() as signals, running([SH, "-c", "kill -HUP $PPID; exit 5"], signals) as client:
            assert client.wait(10) == 5
    finally:
        signal.signal(signal.SIGHUP, before)


def test_we_stop_with_the_child() -> None:
    """As ssh does at ``~^Z``: the shell that waits for us has to see it."""
    script = (
        "from pytest_xhyve.cli.ssh_client import TerminationSignals, running\n"
        f"with running([{SH!r}, '-c', 'kill -STOP $$; exit 6'], TerminationSignals()) as client:\n"
        "    raise SystemExit(client.wait(60))\n"
    )
    # Not in a process group that is orphaned, whose processes nobody could continue.
    process = subprocess.Popen([sys.executable, "-c", script], process_group=0)
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        assert process.wait(10) == 6
    finally:
        process.kill()
        process.wait()


def test_no_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(XhyveError, match=r"ssh not found in PATH(.|\n)*apt install openssh-client"):
        find_ssh()
