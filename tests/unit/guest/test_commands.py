from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from math import inf, nan
from pathlib import Path
from typing import Self, cast

import paramiko
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_xhyve.guest.connection import Connection
from pytest_xhyve.guest.shell import Command, quote_path, shell_line
from pytest_xhyve.model.completed import Completed
from pytest_xhyve.model.errors import CommandFailed, CommandTimeout, ConfigurationError, ConnectionFailed
from pytest_xhyve.model.secret import Secret

# What an argument and an environment variable can hold (execve(2)).
words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


PASSWORD = Secret("p\u00e4$s 'w\"rd")


def run(line: str) -> str:
    return subprocess.run(["sh", "-c", line], check=True, capture_output=True, timeout=20).stdout.decode()


def plain(command: Command, **options: object) -> str:
    defaults: dict[str, object] = {"env": None, "user": None, "login_user": "root", "timeout": None}
    line = shell_line(command, **(defaults | options))  # type: ignore[arg-type]
    assert line.first_input == b""
    return line.text


@given(st.lists(words, min_size=1, max_size=4))
def test_words_arrive_as_they_are(arguments: list[str]) -> None:
    assert run(plain(["printf", "%s\\0", *arguments])) == "".join(f"{word}\0" for word in arguments)


@given(words)
def test_variables_arrive_as_they_are(value: str) -> None:
    assert run(plain('printf %s "$VALUE"', env={"VALUE": value})) == value


def test_line_is_the_shells() -> None:
    assert run(plain("echo $((1 + 1)) | cat")) == "2\n"


def test_limit_is_a_little_later_than_ours_and_never_none() -> None:
    assert plain("true", timeout=0.2).startswith("timeout -s KILL 2 ")
    assert run(plain("echo a; echo b", timeout=5)) == "a\nb\n"


def test_other_user_is_reached_by_what_the_login_has() -> None:
    assert plain("id", user="debian").endswith('exec su -s "$s" -c id debian')
    assert plain("id", user="root") == "id"
    assert plain("id", user="root", login_user="ubuntu").startswith("sudo -n -H -u root -- ")


def test_folder() -> None:
    assert run(plain("pwd", cwd="/usr/lib")) == "/usr/lib\n"
    assert run(plain(["pwd"], cwd=Path("/usr"), timeout=5, env={"A": "b"})) == "/usr\n"
    assert run(plain("pwd", cwd="~")) == f"{Path.home()}\n"
    assert run(f"printf %s {quote_path('~/a b')}") == f"{Path.home()}/a b"
    assert run(f"printf %s {quote_path('~root/')}") == f"{Path('~root').expanduser()}/"
    assert run(f"printf %s {quote_path('~$x/a')}") == "~$x/a"
    with pytest.raises(subprocess.CalledProcessError):
        run(plain("echo no", cwd="/no/such"))


def test_words_may_be_paths_and_bytes_of_a_name() -> None:
    assert run(plain(["printf", "%s", Path("/a b")])) == "/a b"
    line = plain(["printf", "%s", "\udcff"])
    assert subprocess.run(["sh", "-c", line], check=True, capture_output=True).stdout == b"\xff"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"command": "echo a\0b"}, "the command has a NUL character"),
        ({"command": ["echo", "a\0b"]}, "item 1 of the command has a NUL character"),
        ({"command": b"echo"}, "is not a command"),
        ({"command": Path("/bin/ls")}, "is not a command"),
        ({"command": []}, "empty list"),
        ({"command": ["sleep", 1]}, "item 1 of the command is 1, a int"),
        ({"command": "x", "env": {"A=B": "c"}}, "'A=B', which is not the name of a variable"),
        ({"command": "x", "env": {"": "c"}}, "not the name of a variable"),
        ({"command": "x", "env": {"-i": "c"}}, "not the name of a variable"),
        ({"command": "x", "env": {"A": "b\0c"}}, r"env\['A'\] has a NUL character"),
        ({"command": "x", "env": {"A": 1}}, r"env\['A'\] is 1, a int"),
        ({"command": "x", "user": "-c"}, "not the name of a user"),
        ({"command": "x", "user": "a b"}, "not the name of a user"),
        ({"command": "x", "user": "a$b"}, "not the name of a user"),
        ({"command": "x", "cwd": "a\0"}, "cwd has a NUL character"),
        *(({"command": "x", "timeout": value}, "not a positive number") for value in (0, -5, nan, inf, "5", True)),
    ],
)
def test_argument_that_no_command_can_have(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        plain(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("data", [b"", b"one\ntwo\n"])
def test_password_reaches_sudo_alone(asks: bool, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether sudo asks depends on the guest's configuration, and the command must not read the password instead."""
    sudo = tmp_path / "sudo"
    read = f'IFS= read -r typed; [ "$typed" = {shlex.quote(PASSWORD.reveal())} ] || exit 1' if asks else ":"
    sudo.write_text(f'#!/bin/sh\n{read}\nwhile [ "$1" != -- ]; do shift; done; shift\nexec "$@"\n')
    sudo.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    line = shell_line(
        'cat; printf %s "$VALUE"',
        env={"VALUE": "it's"},
        user="root",
        login_user="tester",
        timeout=10,
        password=PASSWORD,
    )
    assert PASSWORD.reveal() not in line.text
    assert PASSWORD.reveal() not in repr(line)
    done = subprocess.run(["sh", "-c", line.text], input=line.first_input + data, capture_output=True, check=True)
    assert done.stdout == data + b"it's"


@pytest.fixture
def completed() -> Completed:
    return Completed("make test", 2, "out\n", "caf\udce9\n", 1.5)


def test_failure_shows_command_code_and_streams(completed: Completed) -> None:
    text = str(CommandFailed(completed))
    assert text == ("command failed with exit code 2\n  $ make test\n  stdout:\n    out\n  stderr:\n    caf\\udce9")


def test_timeout_shows_what_came(completed: Completed) -> None:
    assert "within 3 s" in str(CommandTimeout(completed, 3))
    assert "    out" in str(CommandTimeout(completed, 3))


def test_long_output_is_cut_at_its_beginning() -> None:
    report = Completed("x", 0, "a" * 5000 + "end", "", 0).report()
    assert "1003 earlier characters omitted" in report
    assert "end" in report
    assert "stderr: (nothing)" in report


class LostTransport:
    """As paramiko's, whose connection is lost for the reason *error*."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def open_session(self, timeout: float) -> paramiko.Channel:
        del timeout
        raise self._error

    def is_active(self) -> bool:
        return False


class Transport:
    """As paramiko's; it notes the line of each command."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.closed = False

    def open_session(self, timeout: float) -> Self:
        del timeout
        return self

    def exec_command(self, line: bytes) -> None:
        self.lines.append(line)


def lost_connection(error: Exception, *others: object) -> Connection:
    """A connection that is lost, and those that follow it if it is opened again."""
    transports = iter(cast("Sequence[paramiko.Transport]", (LostTransport(error), *others)))
    return Connection(
        "x",
        next(transports),
        lambda _, __: None,
        lambda: None,
        lambda: 0.0,
        step=1.0,
        reconnect=(lambda: (next(transports), set())) if others else None,
    )


@pytest.mark.parametrize("error", [ValueError("the thread of paramiko ended"), OSError("the socket is closed")])
def test_whatever_ends_paramikos_thread_is_a_lost_connection(error: Exception) -> None:
    """No traceback of a thread, and no error of a type that nothing expects."""
    for connection in (lost_connection(error), lost_connection(EOFError("the first"), LostTransport(error))):
        with pytest.raises(ConnectionFailed, match=f"cannot say hello: the SSH connection was lost .*{error}"):
            connection.begin("true", "say hello", lambda: None)


def test_connection_that_is_lost_before_a_command_starts_is_opened_again() -> None:
    again = Transport()
    lost_connection(EOFError("the guest closed it"), again).begin("true", "say hello", lambda: None)
    assert again.lines == [b"true"]
