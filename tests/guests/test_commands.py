"""Commands as people write them: bytes, users, terminals, output without end, errors from outside."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from waiting import becomes
from warm import fleet_of

from pytest_xhyve import (
    CommandFailed,
    CommandTimeout,
    ConfigurationError,
    ConnectionFailed,
    Guest,
    WaitTimeout,
    XhyveError,
)
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.spec import GuestSpec


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    """One for all of these tests, as none of them harms it."""
    with fleet_of(Home.of_user(), []) as fleet, fleet.start(ForegroundRequest(GuestSpec())) as guest:
        guest.run("echo bob:x:1234:1234::/home/bob:/bin/ash >>/etc/passwd; echo bob:x:1234: >>/etc/group")
        guest.run("mkdir -p /home/bob && chown 1234:1234 /home/bob && chmod 700 /root && echo /bin/ash >>/etc/shells")
        yield guest


def test_file_with_a_name_that_is_not_utf_8_can_be_removed(guest: Guest) -> None:
    guest.run("mkdir -p /tmp/l && cd /tmp/l && touch $(printf 'caf\\351')")
    name = guest.run("cd /tmp/l && printf %s *").stdout
    assert name == "caf\udce9"
    guest.run(["rm", f"/tmp/l/{name}"])
    assert guest.run("ls /tmp/l").stdout == ""


def test_user_has_a_home_and_a_shell(guest: Guest) -> None:
    assert guest.run("pwd; echo $HOME $SHELL $(id -un)", user="bob").stdout == "/home/bob\n/home/bob /bin/ash bob\n"
    assert guest.run(["pwd"], user="bob", cwd="/tmp", env={"A": "b"}).stdout == "/tmp\n"


def test_terminal(guest: Guest) -> None:
    assert guest.run("tty; echo err >&2", tty=True).stdout.replace("\r\n", "\n").endswith("\nerr\n")
    assert guest.run("tty", check=False).stdout == "not a tty\n"


def test_output_without_end(guest: Guest) -> None:
    with pytest.raises(XhyveError, match=r"printed more than 1 MiB[\s\S]*y\n[\s\S]*bytes omitted"):
        guest.run("yes", max_output="1M")
    assert guest.run("echo on").stdout == "on\n"


def test_too_long_command(guest: Guest) -> None:
    with pytest.raises(
        ConnectionFailed, match=r"cannot run 'echo x*'… .4.8 MiB.*\n.*\n  pass data by input="
    ) as caught:
        guest.run("echo " + "x" * 5_000_000)
    assert len(str(caught.value)) < 2000
    assert guest.run("echo on").stdout == "on\n"


@contextmanager
def raised_by(signal_number: int, error: BaseException) -> Iterator[None]:
    def raise_error(*_: object) -> None:
        raise error

    before = signal.signal(signal_number, raise_error)
    try:
        yield
    finally:
        signal.signal(signal_number, before)


def test_error_from_outside_states_guest_command_and_output(guest: Guest) -> None:
    def interrupt() -> None:
        guest.wait_for("test -e /tmp/is-running")
        os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with raised_by(signal.SIGUSR1, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt) as caught:
        guest.run("echo so far; touch /tmp/is-running; exec sleep 100")
    thread.join()
    (note,) = caught.value.__notes__
    assert note.startswith(f"while a command ran in guest {guest.name}; its output until then:\n  $ echo so far; touch")
    assert "    so far" in note


def test_forked_child_does_not_use_the_connection(guest: Guest) -> None:
    guest.run("true")
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # New Pythons warn of a fork beside threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    verbs: list[Callable[[], object]] = [
        lambda: guest.run("true"),
        lambda: guest.wait_for("true", timeout=5),
        lambda: guest.get("/etc/hosts", os.devnull),
        lambda: guest.put(b"", "/tmp/forked"),
        lambda: guest.ssh,
        lambda: guest.forward(8102),
    ]
    if child == 0:
        for verb in verbs:
            try:
                verb()
            except BaseException as error:
                os.write(writer, f"{error}\n".encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        assert answer.read().count(f"guest {guest.name} belongs to process {os.getpid()}") == len(verbs)
    assert guest.run("echo on").stdout == "on\n"


def test_guest_cannot_be_pickled(guest: Guest) -> None:
    with pytest.raises(TypeError, match=r"cannot pickle guest .*: pass guest.host and guest.port"):
        pickle.dumps(guest)


def test_client_of_a_lost_connection_names_the_new_one(guest: Guest) -> None:
    client = guest.ssh
    guest._own_power.login.disconnect()
    with pytest.raises(ConnectionFailed, match=r"use guest\.ssh"):
        client.exec_command("true")
    _, out, _ = guest.ssh.exec_command("echo on")
    assert out.read() == b"on\n"


def test_threads_share_the_connection_that_is_made_again(guest: Guest) -> None:
    guest.ssh.close()
    clients: list[object] = []
    # They run nothing: if several commands end at once, Dropbear 2022.83 may end too (`!channel->sent_close`).
    threads = [threading.Thread(target=lambda: clients.append(guest.ssh)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(clients) == 4
    assert set(clients) == {guest.ssh}
    assert guest.run("echo on").stdout == "on\n"


def test_waits_run_on_a_clock_that_a_test_cannot_stop(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As freezegun does it."""
    guest.run("true")
    begin = monotonic()
    with monkeypatch.context() as frozen:
        frozen.setattr(time, "monotonic", lambda: 1000.0)
        frozen.setattr(time, "time", lambda: 1_000_000_000.0)
        with pytest.raises(WaitTimeout):
            guest.wait_for("false", timeout=0.5)
        with pytest.raises(CommandTimeout):
            guest.run("sleep 100", timeout=0.5)
        with pytest.raises(WaitTimeout):
            guest.console.wait_for("never printed", timeout=0.5)
    assert monotonic() - begin < 30


def test_port_is_found_on_any_address(guest: Guest) -> None:
    """Not only on the one of the loopback interface."""
    address = guest.run("ip -4 -o addr show eth0").stdout.split()[3].split("/")[0]
    guest.run(f"httpd -p {address}:8101 -h /tmp")
    guest.wait_for_port(8101, timeout=20)
    with pytest.raises(ConfigurationError, match="not a positive number"):
        guest.wait_for_port(22, timeout=0)


def test_output_is_logged_while_the_command_runs(guest: Guest, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pytest_xhyve.guest")
    guest.run("mkfifo /tmp/go")
    caplog.clear()
    running = threading.Thread(target=guest.run, args=["echo first; cat /tmp/go; rm /tmp/go"], kwargs={"stream": True})
    running.start()
    assert becomes(lambda: caplog.messages == [f"{guest.name} stdout: first"], 10)
    guest.run("echo second > /tmp/go")
    running.join()
    assert f"{guest.name} stdout: second" in caplog.messages
    with pytest.raises(CommandFailed):
        guest.run("exit 3")
    assert ": exit code 3 after " in caplog.messages[-1]
    assert caplog.records[-1].filename == "test_commands.py"
