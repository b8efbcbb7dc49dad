"""What a command in a guest gave."""

from __future__ import annotations

from dataclasses import dataclass

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

    def __repr__(self) -> str:
        streams = ", ".join(
            f"{name}={text[:_IN_REPR]!r}{'…' if len(text) > _IN_REPR else ''}"
            for name, text in (("stdout", self.stdout), ("stderr", self.stderr))
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


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
