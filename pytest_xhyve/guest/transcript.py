"""The transcript of a guest: each command of a test as a record of the logger `NAME`."""

from __future__ import annotations

import logging

from pytest_xhyve.model.completed import Completed
from pytest_xhyve.model.text import printable

NAME = "pytest_xhyve.guest"
"""The logger's name."""

# The frames between a test's line and the call of the logger, with the latter's own function.
_CALLER_OF_RUN = 5
_MOST_LINE = 4000
# A guest may print without end.
_MOST_LINES = 10_000


def log_command(guest: str, completed: Completed, *, streamed: bool) -> None:
    """Log a command of the guest named *guest* that has ended, with its output, unless that was *streamed* before."""
    logger = logging.getLogger(NAME)
    if not logger.isEnabledFor(logging.INFO):
        return
    end = "did not end" if completed.returncode == -1 else f"exit code {completed.returncode}"
    silent = streamed or not (completed.stdout or completed.stderr)
    text = f"  $ {printable(completed.command)}" if silent else completed.report()
    logger.info("%s: %s after %.2f s\n%s", guest, end, completed.duration, text, stacklevel=_CALLER_OF_RUN)


class LineLogger:
    """Logs the output of a running command, each line when it is complete.

    Args:
        guest: the guest's name.
        stream: ``stdout`` or ``stderr``.
    """

    def __init__(self, guest: str, stream: str) -> None:
        self._prefix = f"{guest} {stream}"
        self._rest = b""
        self._lines = 0

    def feed(self, data: bytes) -> None:
        """Add *data*, the next part of the output."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MOST_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._log(line)

    def end(self) -> None:
        """Log the last line, which may have no end."""
        if self._rest:
            self._log(self._rest)
            self._rest = b""

    def _log(self, line: bytes) -> None:
        self._lines += 1
        if self._lines <= _MOST_LINES:
            text = printable(line[:_MOST_LINE].decode(errors="surrogateescape").removesuffix("\r"))
            logging.getLogger(NAME).info("%s: %s", self._prefix, text)
        elif self._lines == _MOST_LINES + 1:
            logging.getLogger(NAME).info("%s: further lines are not logged", self._prefix)
