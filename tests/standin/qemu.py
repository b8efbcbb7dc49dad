"""QEMU as a child: it runs the guest, hears nothing but us, and does not outlive us."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from standin.process import show_name, show_words

_PROGRAM = "qemu-system-x86_64"
_PR_SET_PDEATHSIG = 1
_CHUNK = 65536
_STATE_SECONDS = 0.02

# fmt: off
_BASE = (
    "-nodefaults", "-no-user-config", "-display", "none",
    "-accel", "tcg,thread=multi", "-cpu", "Nehalem",
)
# fmt: on
_MACHINE = "q35,usb=off,smbus=off,sata=off,vmport=off,hpet=off"

# Without ACPI tables, QEMU's firmware makes some of its own, unless it finds a root pointer. This is one that only the
# firmware takes for one: of what revision 2 added, it looks at no more than the length says (src/fw/biostables.c in
# SeaBIOS's sources). The other file has it put where it is looked for (src/fw/romfile_loader.h).
_POINTER = struct.pack("<8sB6sBII12x", b"RSD PTR ", 0x2B, b"XHYVE ", 2, 0, 20)
_POINTER_NAME = "etc/acpi/rsdp"
_LOADER = struct.pack("<I56sIB63x", 1, _POINTER_NAME.encode(), 16, 2)

_libc = ctypes.CDLL(None)


class Qemu:
    """A QEMU that runs.

    Args:
        arguments: of its command line, besides those that all have.
        files: descriptors that it gets, under the same numbers.

    Attributes:
        channel: QMP's socket, to wait on.
        errors: the read end of its stderr, likewise.
        ended: a pidfd, likewise.
    """

    def __init__(self, arguments: Sequence[str], files: Sequence[int], *, acpi: bool) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.setblocking(False)
        self.errors, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write_end, True)
        self._lines = b""
        self._errors = b""
        self._answers: list[Callable[[Any], None] | None] = []
        tables = [] if acpi else [_memory_file(_LOADER), _memory_file(_POINTER)]
        # fmt: off
        argv = [
            _PROGRAM, *_BASE, "-machine", _MACHINE + ("" if acpi else ",acpi=off"), *arguments,
            "-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control",
        ]
        # fmt: on
        for name, fd in zip(("etc/table-loader", _POINTER_NAME), tables, strict=False):
            argv += ["-fw_cfg", f"name={name},file=/proc/self/fd/{fd}"]
        self.pid = _spawn(argv, [*files, *tables, theirs.fileno()], write_end)
        theirs.close()
        os.close(write_end)
        self.ended = os.pidfd_open(self.pid)
        self._send("qmp_capabilities")
        _stop_with_us(self.pid)

    def execute(self, command: str, answer: Callable[[Any], None] | None = None, **arguments: Any) -> None:
        """Have QEMU do *command*, and pass *answer* what that returned."""
        self._send(command, answer, **arguments)

    def monitor(self, line: str, answer: Callable[[str], None]) -> None:
        """Likewise with a command of the human monitor."""
        self._send("human-monitor-command", answer, **{"command-line": line})

    def read_events(self) -> list[dict[str, Any]]:
        """Pass answers on, and return events."""
        events = []
        self._lines += self._receive()
        *lines, self._lines = self._lines.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "event" in message:
                events.append(message)
            elif "return" in message or "error" in message:
                answer = self._answers.pop(0)
                if answer is not None and "return" in message:
                    answer(message["return"])
        return events

    def read_errors(self) -> bytes:
        """What it wrote to stderr since, in whole lines."""
        try:
            self._errors += os.read(self.errors, _CHUNK)
        except BlockingIOError:
            return b""
        whole, newline, self._errors = self._errors.rpartition(b"\n")
        return whole + newline

    def wait(self) -> int:
        """Its exit code, once it has one."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def _send(self, command: str, answer: Callable[[Any], None] | None = None, **arguments: Any) -> None:
        self._answers.append(answer)
        try:
            # A broken pipe to QEMU is not one that xhyve would die of.
            message = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
            self.channel.sendall(message, socket.MSG_NOSIGNAL)
        except OSError:
            return  # its end is noticed elsewhere

    def _receive(self) -> bytes:
        try:
            return self.channel.recv(_CHUNK)
        except OSError:
            return b""


def _memory_file(content: bytes) -> int:
    fd = os.memfd_create("firmware", 0)
    os.write(fd, content)
    return fd


def _spawn(argv: list[str], files: Sequence[int], stderr: int) -> int:
    parent = os.getpid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in files:
        os.set_inheritable(fd, True)
    pid = os.fork()
    if pid:
        os.close(null)
        return pid
    try:
        # In a session of its own, out of reach of what is sent to our group or typed on our terminal.
        os.setsid()
        _die_with(parent)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(stderr, 2)
        os.execvp(argv[0], argv)  # noqa: S606
    finally:
        os._exit(127)


def _stop_with_us(qemu: int) -> None:
    """Have another process stop QEMU when we are stopped, and let it go on when we do: nobody is told of SIGSTOP."""
    parent = os.getpid()
    if os.fork():
        return
    try:
        os.setsid()
        _die_with(parent)
        show_name("xhyve-stopper")
        show_words([])
        os.closerange(0, 1 << 16)
        stat = Path(f"/proc/{parent}/stat")
        was_stopped = False
        while True:
            stopped = stat.read_text().rpartition(")")[2].split()[0] == "T"
            if stopped != was_stopped:
                os.kill(qemu, signal.SIGSTOP if stopped else signal.SIGCONT)
                was_stopped = stopped
            time.sleep(_STATE_SECONDS)
    finally:
        os._exit(0)


def _die_with(parent: int) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(127)
