"""What is known of a failed test, as plain data: for its bundle and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from pytest_xhyve.model.completed import Completed

_KEPT = 16 << 10
# In the year 2242: not every time that a bundle may state is a date.
_LATEST = 1 << 33

REPEATED = ("image", "start")
"""The options that `Failure.options` has. A bundle of another person must not bring others: some run programs."""


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """A command that a test ran.

    Attributes:
        guest: the guest's name.
        command: the command as the test wrote it.
        returncode: its exit code; -1 if it did not end.
        stdout: its standard output, without the middle if it is long.
        stderr: its standard error, likewise.
        duration: seconds.
        ended: when it ended, in seconds since the epoch.
    """

    guest: str
    command: str
    returncode: int
    stdout: str
    stderr: str
    duration: float
    ended: float

    @classmethod
    def of(cls, guest: str, completed: Completed, ended: float) -> Self:
        """The record of *completed*, a command that *guest* has run."""
        texts = [_without_middle(text) for text in (completed.command, completed.stdout, completed.stderr)]
        return cls(guest, texts[0], completed.returncode, texts[1], texts[2], completed.duration, ended)


@dataclass(frozen=True, slots=True)
class Failure:
    """A test that failed.

    Attributes:
        test: its node id.
        when: ``setup``, ``call`` or ``teardown``.
        error: the error, in one line.
        traceback: the report of it.
        time: when it failed, in seconds since the epoch.
        run: an id that all processes of the run share.
        commands: the commands that it had run, in their order.
        versions: the versions of what took part, by name.
        options: the options by which its run chose images and starts, which may be a part of its id.
    """

    test: str
    when: str
    error: str
    traceback: str
    time: float
    run: str
    commands: Sequence[CommandRecord]
    versions: Mapping[str, str]
    options: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """This object as plain data, for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The object from which `to_dict` made *content*.

        Raises:
            TypeError, KeyError, ValueError: `to_dict` did not make it.
        """
        commands = tuple(CommandRecord(**each) for each in content["commands"])
        failure = cls(**{**content, "commands": commands, "options": tuple(content.get("options", ()))})
        texts = (*failure.options, failure.test, failure.when, failure.error, failure.traceback, failure.run)
        if not all(isinstance(text, str) for text in texts) or not 0 <= failure.time < _LATEST:
            raise ValueError("a value of a failure has another type")
        if not all(option.startswith(tuple(f"--xhyve-{name}=" for name in REPEATED)) for option in failure.options):
            raise ValueError("an option that no bundle has")
        return failure


def _without_middle(text: str) -> str:
    if len(text) <= 2 * _KEPT:
        return text
    return f"{text[:_KEPT]}\n[{len(text) - 2 * _KEPT} characters omitted]\n{text[-_KEPT:]}"
