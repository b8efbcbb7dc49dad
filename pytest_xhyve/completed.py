"""What a command in a guest gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

_REPORTED = 4000
_IN_REPR = 60


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that has run, as `subprocess.CompletedProcess` has it.

    Attributes:
        command: the shell line that was run.
        returncode: its exit code; -1 when a signal ended it or it did not end.
        stdout: its output; bytes that are no UTF-8 are kept as surrogates (`os.fsdecode` does the same).
        stderr: its error output, likewise.
        duration: seconds.
    """

    command: str
    returncode: int
    stdout: str
    stderr: str
    duration: float

    def __post_init__(self) -> None:
        # An assertion that fails gets to see no more than the two values that it compares.
        object.__setattr__(self, "returncode", ExitCode.of(self, self.returncode))
        object.__setattr__(self, "stdout", Output.of(self, self.stdout))
        object.__setattr__(self, "stderr", Output.of(self, self.stderr))

    def __repr__(self) -> str:
        streams = ", ".join(
            f"{name}={text[:_IN_REPR]!r}{'…' if len(text) > _IN_REPR else ''}"
            for name, text in (("stdout", str(self.stdout)), ("stderr", str(self.stderr)))
        )
        return f"Completed({self.command!r}, returncode={self.returncode}, {streams}, duration={self.duration:.2f})"

    def report(self) -> str:
        """The command and what it said, for a person."""
        lines = [f"  $ {self.command}"]
        for name, text in (("stdout", self.stdout), ("stderr", self.stderr)):
            lines.append(f"  {name}:{'' if text else ' (nothing)'}")
            if len(text) > _REPORTED:
                lines.append(f"    … {len(text) - _REPORTED} characters before")
            lines += [f"    {line}" for line in _printable(text[-_REPORTED:]).splitlines()]
        return "\n".join(lines)


class ExitCode(int):
    """An exit code that knows whose it is."""

    completed: Completed

    @classmethod
    def of(cls, completed: Completed, code: int) -> Self:
        """The exit *code* of *completed*."""
        made = cls(code)
        made.completed = completed
        return made


class Output(str):
    """A command's output that knows whose it is, also when white space was taken off it."""

    completed: Completed

    @classmethod
    def of(cls, completed: Completed, text: str) -> Self:
        """The *text* that *completed* wrote."""
        made = cls(text)
        made.completed = completed
        return made

    def strip(self, chars: str | None = None, /) -> Output:
        """As `str.strip`."""
        return Output.of(self.completed, super().strip(chars))

    def rstrip(self, chars: str | None = None, /) -> Output:
        """As `str.rstrip`."""
        return Output.of(self.completed, super().rstrip(chars))


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
