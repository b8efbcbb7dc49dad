"""What a serial port is connected to (src/uart_emul.c in xhyve's sources, src/lib/uart_emul.c in hyperkit's).

xhyve reads and writes single bytes, without waiting, and looks at no error.
"""

from __future__ import annotations

import fcntl
import os
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from standin.process import Process

Attributes = list[int | list[bytes | int]]

_CHUNK = 4096


class Stdio:
    """Standard input in both directions, which may be a terminal."""

    fd = 0

    def __init__(self, process: Process) -> None:
        """Take standard input.

        Raises:
            OSError: it is closed.
        """
        # Not only for us: whoever has this file open finds it so, and it is never undone.
        fcntl.fcntl(0, fcntl.F_SETFL, os.O_NONBLOCK)
        before = make_raw(0)
        if before is not None:
            process.at_exit(lambda: termios.tcsetattr(0, termios.TCSANOW, before))

    def read(self) -> bytes | None:
        """What has been typed; empty if nothing, None at the end of all input."""
        try:
            return os.read(self.fd, _CHUNK) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None

    def write(self, data: bytes) -> None:
        """Show it, or lose what cannot be shown at once."""
        # The bytes come singly from the guest; that several come together here is no reason to lose any.
        while data:
            try:
                data = data[os.write(self.fd, data) :]
            except OSError:
                return


def make_raw(fd: int) -> Attributes | None:
    """Put a terminal into raw mode, and return what it was in; None if it is no terminal."""
    try:
        before = termios.tcgetattr(fd)
    except termios.error:
        return None
    # cfmakeraw(3), and no modem.
    iflag, oflag, cflag, lflag = (flags for flags in before[:4] if isinstance(flags, int))
    iflag &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    oflag &= ~termios.OPOST
    lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8 | termios.CLOCAL
    termios.tcsetattr(fd, termios.TCSANOW, [iflag, oflag, cflag, lflag, *before[4:]])
    return before
