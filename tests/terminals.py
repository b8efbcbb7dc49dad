"""Programs on a terminal, which type and read as a person does."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from pytest_xhyve.model.clock import monotonic

_MOST_SECONDS = 60.0
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|\(.|[=>])")


class Terminal:
    """A terminal in which a program runs."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._read = ""

    @property
    def shown(self) -> str:
        """What the program has shown, without what moves the cursor or changes colours."""
        return _CONTROL.sub("", self._read)

    @property
    def received(self) -> str:
        """All that the program has sent to the terminal."""
        return self._read

    def forget(self) -> None:
        """Forget what was shown up to now."""
        self._read = ""

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def wait_for(self, pattern: str) -> None:
        end = monotonic() + _MOST_SECONDS
        while not re.search(pattern, self.shown):
            assert monotonic() < end, self.shown
            if select.select([self._fd], [], [], 0.2)[0]:
                try:
                    self._read += os.read(self._fd, 1 << 16).decode(errors="replace")
                except OSError as error:
                    raise AssertionError(self.shown) from error


@contextmanager
def on_terminal(
    argv: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    """Run *argv* on a terminal of its own for the time of the block, with more variables in its *environment*."""
    ours, theirs = pty.openpty()
    variables = {**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "30", **(environment or {})}
    # The shells insist on a terminal that controls their session (setsid(1)).
    command = ["setsid", "--ctty", *argv]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=variables)
    os.close(theirs)
    try:
        yield Terminal(ours), process
    finally:
        process.kill()
        process.wait()
        os.close(ours)
