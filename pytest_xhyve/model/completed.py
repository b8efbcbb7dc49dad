"""The result of a command in a guest."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_xhyve.model.text import printable

RUNNING = "while a command ran in guest "
"""The beginning of the note at an error that interrupted `Guest.run`, such as pytest-timeout's."""

_REPORTED = 4000
_IN_REPR = 60


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished command; the attributes are named as in `subprocess.CompletedProcess`.

    Attributes:
        command: the shell line.
        returncode: the exit code; -1 if a signal killed the command or if it did not end.
        stdout: standard output; bytes that are not UTF-8 become surrogates, as in `os.fsdecode`.
        stderr: standard error, decoded the same way.
        duration: seconds.
    """

    command: str
    returncode: int
    stdout: str
    stderr: str
    duration: float

    def __repr__(self) -> str:
        streams = ", ".join(
            f"{name}={text[:_IN_REPR]!r}{'…' if len(text) > _IN_REPR else ''}"
            for name, text in (("stdout", self.stdout), ("stderr", self.stderr))
        )
        return f"Completed({self.command!r}, returncode={self.returncode}, {streams}, duration={self.duration:.2f})"

    def report(self) -> str:
        """The command and its output, as text for a report."""
        command = self.command if len(self.command) <= _REPORTED else f"{self.command[:_REPORTED]}…"
        lines = [f"  $ {printable(command)}"]
        for name, text in (("stdout", self.stdout), ("stderr", self.stderr)):
            lines.append(f"  {name}:{'' if text else ' (nothing)'}")
            if len(text) > _REPORTED:
                lines.append(f"    … {len(text) - _REPORTED} earlier characters omitted")
            lines += [f"    {line}" for line in printable(text[-_REPORTED:]).splitlines()]
        return "\n".join(lines)
