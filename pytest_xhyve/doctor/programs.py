"""Run the host's programs; tests replace this object."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a program ended.

    Attributes:
        code: the exit code; the negative signal number if a signal killed it; None if it could not run or exceeded
            its limit.
        out: its standard output.
        err: its standard error, or the reason why it could not run.
    """

    code: int | None
    out: str = ""
    err: str = ""

    @property
    def text(self) -> str:
        """Standard output and standard error."""
        return self.out + self.err

    @property
    def reason(self) -> str:
        """The reason why it failed, in one line."""
        lines = self.err.strip().splitlines() or self.out.strip().splitlines()
        return lines[-1] if lines else f"it ended with exit code {self.code}"


class CommandRunner:
    """Runs programs of the host, without a shell."""

    def find(self, name: str) -> str | None:
        """The path of the program *name* in PATH, or None."""
        return shutil.which(name)

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout: float = ANSWER_SECONDS) -> CommandResult:
        """Run *argv* and wait for its end.

        Args:
            argv: the program and its arguments.
            stdin: the text for its standard input.
            timeout: limit in seconds; after it, the program is killed.
        """
        try:
            done = subprocess.run(
                list(argv),
                check=False,
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                # The checks search the output for English text.
                env={**os.environ, "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired:
            return CommandResult(None, err=f"{argv[0]} did not end within {timeout:g} s")
        except OSError as error:
            return CommandResult(None, err=f"{argv[0]}: {error.strerror}")
        return CommandResult(done.returncode, done.stdout, done.stderr)
