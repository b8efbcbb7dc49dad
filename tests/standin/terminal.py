"""What a serial port can be connected to (src/uart_emul.c in xhyve's sources, src/lib/uart_emul.c in hyperkit's).

xhyve reads and writes single bytes, without waiting, and looks at no error.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import struct
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from standin.process import Process

Attributes = list[int | list[bytes | int]]

_CHUNK = 4096
# asm-generic/ioctls.h
_TIOCSPTLCK = 0x40045431
_TIOCGPTN = 0x80045430
_RING = 65536
# A terminal of macOS holds so many bytes that nobody has read, TTYHOG - 2; one of Linux holds more.
_HELD = 1022
_WRITTEN_AT_ONCE = 256
_READER_SECONDS = 0.02
_POLL_SECONDS = 0.0005


class Terminal(Protocol):
    """One end of a serial line.

    Attributes:
        fd: to wait for input on, None if there never is any.
        reopens: whether there can be input after its end.
    """

    fd: int | None
    reopens: bool

    def read(self) -> bytes | None:
        """What has been typed; empty if nothing, None at the end of all input."""

    def write(self, data: bytes) -> None:
        """Show it, or lose what cannot be shown at once."""


class Tty:
    """A file descriptor, which may be a terminal: standard input in both directions, or a tty that was opened."""

    reopens = False

    def __init__(self, fd: int) -> None:
        self.fd: int | None = fd
        self._fd = fd

    @classmethod
    def stdio(cls, process: Process) -> Tty:
        """Standard input.

        Raises:
            OSError: it is closed.
        """
        # Not only for us: whoever has this file open finds it so, and it is never undone.
        fcntl.fcntl(0, fcntl.F_SETFL, os.O_NONBLOCK)
        before = make_raw(0)
        if before is not None:
            process.at_exit(lambda: termios.tcsetattr(0, termios.TCSANOW, before))
        return cls(0)

    @classmethod
    def open(cls, path: str) -> Tty | None:
        """The tty at *path*; None if there is none."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        except OSError:
            return None
        if not os.isatty(fd):
            return None
        make_raw(fd)
        return cls(fd)

    def read(self) -> bytes | None:
        try:
            return os.read(self._fd, _CHUNK) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None

    def write(self, data: bytes) -> None:
        # The bytes come singly from the guest; that several come together here is no reason to lose any.
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except OSError:
                return


class AutoPty:
    """A new pseudo-terminal, of which we have the master.

    On macOS nothing is kept for a slave that nobody has open, and little for one that nobody reads.
    """

    reopens = True

    def __init__(self) -> None:
        self._fd = os.open("/dev/ptmx", os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
        self.fd: int | None = self._fd
        fcntl.ioctl(self._fd, _TIOCSPTLCK, struct.pack("i", 0))
        (number,) = struct.unpack("I", fcntl.ioctl(self._fd, _TIOCGPTN, bytes(4)))
        self.name = f"/dev/pts/{number}"
        self._stalled = False
        # Linux reports a slave that was closed, and not one that was never opened.
        os.close(self._open_slave())
        make_raw(self._fd)

    def keep_slave(self) -> None:
        """Have the slave open from now on, so that something is kept for whoever opens it."""
        self._open_slave()

    def read(self) -> bytes | None:
        try:
            return os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return b""
        except OSError:  # nobody has the slave open
            return None

    def write(self, data: bytes) -> None:
        closed = self._is_closed()
        slave = self._open_slave()
        try:
            if closed:
                termios.tcflush(slave, termios.TCIFLUSH)
                return
            while data:
                room = self._room(slave, len(data))
                if room == 0:
                    return
                data = data[os.write(self._fd, data[:room]) :]
        except OSError:
            return
        finally:
            os.close(slave)

    def _room(self, slave: int, wanted: int) -> int:
        """How many bytes may be written now.

        A guest's bytes come one after another, which leaves a reader the time to read, so here it is given some. One
        that did not use it was not there.
        """
        end = time.monotonic() + _READER_SECONDS
        while True:
            room = min(_HELD - _unread(slave), _WRITTEN_AT_ONCE, wanted)
            if room > 0:
                self._stalled = False
                return room
            if self._stalled or time.monotonic() > end:
                self._stalled = True
                return 0
            time.sleep(_POLL_SECONDS)

    def _is_closed(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, 0)
        return bool(poll.poll(0))

    def _open_slave(self) -> int:
        return os.open(self.name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)


class Null:
    """/dev/null, or Apple's log, of which nobody here reads anything."""

    fd: int | None = None
    reopens = False

    def read(self) -> bytes | None:
        return None

    def write(self, data: bytes) -> None:
        pass


class Log:
    """hyperkit's ring: a file of 64 KiB that is written round and round."""

    fd: int | None = None
    reopens = False

    def __init__(self, path: str) -> None:
        with Path(path).open("w+b") as file:
            file.truncate(_RING)
            self._ring = mmap.mmap(file.fileno(), _RING)
        self._next = 0

    def read(self) -> bytes | None:
        return None

    def write(self, data: bytes) -> None:
        for byte in data:
            self._ring[self._next] = byte
            self._next = (self._next + 1) % _RING


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


def _unread(slave: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(slave, termios.FIONREAD, bytes(4)))
    return int(count)
