"""A guest's serial ports, between QEMU and what xhyve connects them to."""

from __future__ import annotations

import re
import socket
from contextlib import suppress

from standin.commandline import Ended, NotSimulated
from standin.loop import Loop
from standin.process import Process
from standin.terminal import Stdio

_CHUNK = 65536
# QEMU's trace of what the guest writes to a UART's registers (hw/char/trace-events in its sources), and the bits of a
# 16550 that matter: the first interrupt is the receiver's, which is behind another register while the line's control
# has the latch bit set; and the FIFOs' control can empty the receiver's.
_WRITTEN = re.compile(rb"^serial_write write addr 0x0([123]) val 0x(\w\w)$", re.MULTILINE)
_INTERRUPTS, _FIFOS, _LINE = b"1", b"2", b"3"
_RECEIVER_INTERRUPT = 0x01
_RECEIVER_RESET = 0x02
_LATCH = 0x80


class Port:
    """A serial port of the guest.

    What is typed before the guest's driver has set up the UART is lost: the driver empties the UART, and for xhyve
    that means reading away all that the terminal has.
    """

    def __init__(self, terminal: Stdio | None) -> None:
        self._terminal = terminal
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._loop: Loop | None = None
        self._listens = False

    @property
    def connected(self) -> bool:
        return self._terminal is not None

    def start(self, loop: Loop) -> None:
        self._loop = loop
        loop.watch(self._ours.fileno(), self.show)

    def show(self) -> None:
        """Show what the guest has written, of which there is some."""
        data = self._ours.recv(_CHUNK)
        if self._terminal is not None:
            self._terminal.write(data)

    def drain(self) -> None:
        """Show all that the guest has written."""
        with suppress(BlockingIOError):
            while True:
                self.show()

    def listen(self, *, on: bool) -> None:
        """Pass on what is typed from now on, or leave it where it is."""
        if on == self._listens:
            return
        self._listens = on
        if self._terminal is None:
            return
        assert self._loop is not None
        if on:
            self._loop.watch(self._terminal.fd, self._pass_on)
        else:
            self._loop.ignore(self._terminal.fd)

    def discard(self) -> None:
        """Throw away what was typed and not yet read by the guest."""
        while self._terminal is not None and self._terminal.read():
            pass
        with suppress(BlockingIOError):
            # QEMU has the same end of it.
            while self.theirs.recv(_CHUNK, socket.MSG_DONTWAIT):
                pass

    def _pass_on(self) -> None:
        assert self._terminal is not None
        assert self._loop is not None
        data = self._terminal.read()
        if data is None:
            # xhyve would be told of it again and again, and keep a core busy with it.
            self._loop.ignore(self._terminal.fd)
        elif data:
            with suppress(BlockingIOError):
                self._ours.send(data)


class Uarts:
    """All ports of a guest, and what QEMU says of their registers."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._latch = False
        self.ports: list[Port] = []

    def add(self, backend: str | None, where: str) -> Port:
        """Make a port and connect it.

        Args:
            backend: as the command line has it.
            where: the port's name, in messages.

        Raises:
            Ended: standard input is closed.
            NotSimulated: it is something else than standard input.
        """
        if backend not in (None, "stdio"):
            raise NotSimulated(f"{where} connected to {backend}")
        try:
            port = Port(None if backend is None else Stdio(self._process))
        except OSError:
            raise Ended(1, stderr=f"Unable to initialize backend '{backend}' for {where}\n") from None
        self.ports.append(port)
        return port

    def follow(self, trace: bytes) -> None:
        """Do what whole lines of QEMU's trace tell."""
        for register, value in _WRITTEN.findall(trace):
            bits = int(value, 16)
            if register == _LINE:
                self._latch = bool(bits & _LATCH)
            elif register == _FIFOS and bits & _RECEIVER_RESET:
                for port in self.ports:
                    port.discard()
            elif register == _INTERRUPTS and not self._latch:
                for port in self.ports:
                    port.listen(on=bool(bits & _RECEIVER_INTERRUPT))
