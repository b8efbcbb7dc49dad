"""Write commands as lines for a guest's shell."""

from __future__ import annotations

import math
import os
import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.secret import Secret
from pytest_xhyve.model.values import short_repr

Command = str | Sequence[str | os.PathLike[str]]
"""A shell line, or a list: a program and its arguments."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@-]*\$?")
_TILDE = re.compile(r"~[A-Za-z0-9_.-]*(?=/|$)")
# As a login does: in the user's home folder, by the user's shell. An account without a shell gets /bin/sh.
_AS_USER = (
    "cd ~{user} 2>/dev/null || cd /; "
    "s=$(getent passwd {user} 2>/dev/null || grep '^{pattern}:' /etc/passwd); s=${{s##*:}}; "
    "case $s in ''|*/nologin|*/false) s=/bin/sh ;; esac; "
    'exec su -s "$s" -c {line} {user}'
)
# sudo reads the password from standard input if it asks for one, and leaves it there for the command if it does not.
# So a line of random digits follows: the command begins behind it.
_SKIP_FIRST_LINES = 'IFS= read -r line; [ "$line" = {} ] || IFS= read -r line; exec "$@"'


@dataclass(frozen=True, slots=True)
class ShellLine:
    """A line for the guest's shell.

    Attributes:
        text: the line.
        first_input: what has to precede the command's standard input: a password, if sudo may ask for it.
    """

    text: str
    first_input: bytes = field(default=b"", repr=False)


def shell_line(
    command: Command,
    *,
    env: Mapping[str, str] | None,
    user: str | None,
    login_user: str,
    timeout: float | None,
    cwd: str | os.PathLike[str] | None = None,
    password: Secret | None = None,
) -> ShellLine:
    """The line for the guest's shell that runs *command* as asked.

    Args:
        command: a shell line, or a program and its arguments.
        env: variables to set.
        user: the user who runs it, or None for the login user.
        login_user: the user that the plugin logs in as.
        timeout: seconds after which the guest itself ends the command, as a closed connection does not.
        cwd: the folder in which it runs; a leading ``~`` is that user's home folder.
        password: the login user's, if sudo may ask for it.

    Raises:
        ConfigurationError: an argument has a type or a value that no command can have.
    """
    line, first_input = join(command), b""
    variables = _check_env(env)
    check_timeout(timeout)
    if cwd is not None:
        line = f"cd -- {quote_path(check_text(cwd, 'cwd'))} || exit\n{line}"
    if variables:
        line = shlex.join(["env", *variables, "sh", "-c", line])
    if user is not None and user != login_user:
        if not isinstance(user, str) or not _USER.fullmatch(user):
            raise ConfigurationError(f"user={short_repr(user)} is not the name of a user")
        if login_user == "root":
            # su is in every guest; the one of BusyBox takes just these options.
            line = _AS_USER.format(user=user, pattern=user.replace(".", "[.]"), line=shlex.quote(line))
        else:
            # -S: the password is on standard input; -k: what sudo remembers of an earlier one does not count.
            asking, skip = ["-n"], []
            if password is not None:
                mark = secrets.token_hex(8)
                asking, skip = ["-S", "-k", "-p", ""], ["sh", "-c", _SKIP_FIRST_LINES.format(mark), "sh"]
                first_input = f"{password.reveal()}\n{mark}\n".encode(errors="surrogateescape")
            at_home = f"cd ~ 2>/dev/null || cd /\n{line}"
            line = shlex.join(["sudo", *asking, "-H", "-u", user, "--", *skip, "sh", "-c", at_home])
    if timeout is not None:
        # A little later than the plugin's own limit, by which the error has the output until then.
        line = shlex.join(["timeout", "-s", "KILL", f"{math.ceil(timeout) + 1}", "sh", "-c", line])
    return ShellLine(line, first_input)


def join(command: Command) -> str:
    """*command* as a line for a shell.

    Raises:
        ConfigurationError: it is not text, or has a NUL character.
    """
    if isinstance(command, str):
        return check_text(command, "the command")
    if isinstance(command, bytes | os.PathLike) or not isinstance(command, Sequence):
        raise ConfigurationError(f"{short_repr(command)} is not a command: write a str, or a list of arguments")
    if not command:
        raise ConfigurationError("the command is an empty list")
    return shlex.join(check_text(word, f"item {number} of the command") for number, word in enumerate(command))


def check_text(value: object, what: str) -> str:
    """*value* as text, if it is text or a path.

    Raises:
        ConfigurationError: it is neither, or has a NUL character, at which the guest would cut it.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise ConfigurationError(f"{what} is {short_repr(value)}, a {type(value).__name__}: write a str")
    if "\0" in value:
        raise ConfigurationError(f"{what} has a NUL character: {short_repr(value)}")
    return value


def check_patterns(patterns: object) -> None:
    """Raise an error unless *patterns* is a sequence of text.

    Raises:
        ConfigurationError: it is something else, such as one pattern.
    """
    if isinstance(patterns, str) or not isinstance(patterns, Sequence):
        raise ConfigurationError(f"exclude={short_repr(patterns)} is not a list of patterns")
    for number, pattern in enumerate(patterns):
        check_text(pattern, f"item {number} of exclude=")


def check_timeout(timeout: object) -> None:
    """Raise an error unless *timeout* is None or a positive number of seconds.

    Raises:
        ConfigurationError: it is neither.
    """
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise ConfigurationError(
            f"timeout={short_repr(timeout)} is not a positive number of seconds; for no limit, write None"
        )


def quote_path(path: str) -> str:
    """*path* quoted for a shell, apart from a leading ``~`` or ``~NAME``, which the shell expands."""
    home = _TILDE.match(path)
    if home is None:
        return shlex.quote(path)
    # A shell expands it only up to a slash that is not quoted.
    _, slash, rest = path.partition("/")
    return home[0] + slash + (shlex.quote(rest) if rest else "")


def _check_env(env: Mapping[str, str] | None) -> list[str]:
    assignments = []
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise ConfigurationError(f"env= has {short_repr(name)}, which is not the name of a variable")
        assignments.append(f"{name}={check_text(value, f'env[{name!r}]')}")
    return assignments
