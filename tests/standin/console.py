"""A guest's serial ports, between QEMU and what xhyve connects them to."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from standin.commandline import Build
from standin.devices import Backend, backend_failure, check_backend
from standin.loop import Loop
from standin.process import Process
from standin.terminal import AutoPty, Log, Null, Terminal, Tty

_CHUNK = 65536
_REOPEN_SECONDS = 0.05
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

    def __init__(self, terminals: Sequence[Terminal]) -> None:
        self._terminals = list(terminals)
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._loop: Loop | None = None
        self._listens = False

    @property
    def connected(self) -> bool:
        return bool(self._terminals)

    def start(self, loop: Loop) -> None:
        self._loop = loop
        loop.watch(self._ours.fileno(), self.show)

    def show(self) -> None:
        """Show what the guest has written, of which there is some."""
        data = self._ours.recv(_CHUNK)
        for terminal in self._terminals:
            terminal.write(data)

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
        for terminal in self._terminals:
            if on:
                self._watch(terminal)
            else:
                self._ignore(terminal)

    def discard(self) -> None:
        """Throw away what was typed and not yet read by the guest."""
        for terminal in self._terminals:
            if terminal.fd is not None:
                while terminal.read():
                    pass
        with suppress(BlockingIOError):
            # QEMU has the same end of it.
            while self.theirs.recv(_CHUNK, socket.MSG_DONTWAIT):
                pass

    def _watch(self, terminal: Terminal) -> None:
        assert self._loop is not None
        if self._listens and terminal.fd is not None:
            self._loop.watch(terminal.fd, lambda: self._pass_on(terminal))

    def _ignore(self, terminal: Terminal) -> None:
        assert self._loop is not None
        if terminal.fd is not None:
            self._loop.ignore(terminal.fd)

    def _pass_on(self, terminal: Terminal) -> None:
        data = terminal.read()
        if data is None:
            # xhyve would be told of it again and again, and keep a core busy with it.
            self._ignore(terminal)
            if terminal.reopens:
                assert self._loop is not None
                self._loop.call_later(_REOPEN_SECONDS, lambda: self._watch(terminal))
        elif data:
            with suppress(BlockingIOError):
                self._ours.send(data)


class Uarts:
    """All ports of a guest, and what QEMU says of their registers."""

    def __init__(self, build: Build, process: Process) -> None:
        self._build = build
        self._process = process
        self._stdio_taken = False
        self._latch = False
        self.ports: list[Port] = []

    def add(self, backend: str | None, name: str, where: str) -> Port:
        """Make a port and connect it.

        Args:
            backend: as the command line has it.
            name: of the port, as announced.
            where: the same, in messages.

        Raises:
            Ended: that cannot be.
        """
        found = check_backend(backend, self._build, where, stdio_taken=self._stdio_taken)
        terminals = []
        for one in found:
            terminal = self._open(one, name)
            if terminal is None:
                raise backend_failure(backend or "", self._build, where)
            terminals.append(terminal)
        port = Port(terminals)
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

    def _open(self, backend: Backend, name: str) -> Terminal | None:
        match backend.kind:
            case "stdio":
                self._stdio_taken = True
                try:
                    return Tty.stdio(self._process)
                except OSError:
                    return None
            case "tty":
                assert backend.path is not None
                return Tty.open(backend.path)
            case "autopty":
                return self._open_pty(backend.path, name)
            case "log":
                assert backend.path is not None
                return self._open_log(backend.path)
            case _:
                return Null()

    def _open_pty(self, path: str | None, name: str) -> Terminal | None:
        by_hyperkit = self._build == "hyperkit"
        if by_hyperkit:
            self._process.print(f"linkname {path or '(null)'}\n")
        pty = AutoPty()
        self._process.print(f"{name} connected to {pty.name}\n")
        if path is not None:
            try:
                Path(path).unlink(missing_ok=True)
                Path(path).write_text(pty.name)
            except OSError as error:
                self._process.perror("creating autopty file", error.errno or 0)
                return None
        if by_hyperkit:
            self._process.print("Reopening slave pty\n")
            pty.keep_slave()
        return pty

    def _open_log(self, path: str) -> Terminal | None:
        try:
            return Log(path)
        except OSError as error:
            self._process.perror("open console-ring", error.errno or 0)
            return None
