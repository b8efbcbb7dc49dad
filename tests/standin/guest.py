"""A guest from its first instruction to the end of xhyve: what it does, and what signals do to it."""

from __future__ import annotations

import os
import re
import signal
from typing import NoReturn

from standin.board import Board
from standin.commandline import Build
from standin.loop import Loop
from standin.process import Process
from standin.qemu import Qemu

# Why the guest ended, and the code for it (vmexit_suspend in src/xhyve.c of xhyve's sources and src/hyperkit.c of
# hyperkit's).
_CODES = {"reset": 0, "poweroff": 1, "halt": 2, "triple fault": 3}
_HYPERKIT_CODES = {"reset": 2, "poweroff": 0, "halt": 0, "triple fault": 3}
_REASONS = {"guest-reset": "reset", "guest-shutdown": "poweroff"}

# A restart ends it. QMP knows nothing of "Triple fault", which this log has.
_ENDS = ("-no-reboot", "-d", "cpu_reset")
_HALT_SECONDS = 0.5
# Of QEMU's "info registers -a", for each CPU: whether it takes interrupts, and whether it waits for one.
_FLAGS = re.compile(r"^[RE]IP=.* [RE]FL=([0-9a-f]+) .*HLT=([01])", re.MULTILINE)
_INTERRUPTS = 0x200
# The PM1a control block's first bit, at the port that QEMU's firmware chooses for it, says that the guest uses ACPI.
_READ_PM1A_CONTROL = "i/h 0x604"
_NO_PORT = 0xFFFF  # until the firmware has put it there
_PORT_VALUE = re.compile(r"= (0x[0-9a-f]+)")

_ERRORS_KEPT = 65536
_CHATTER = "rdmsr to register 0x140 on vcpu 0\nrdmsr to register 0x64e on vcpu 0\n"


class Guest:
    """A guest that starts with `run`."""

    def __init__(self, arguments: list[str], board: Board, build: Build, process: Process, *, acpi: bool) -> None:
        self._arguments = arguments
        self._board = board
        self._build = build
        self._process = process
        self._acpi = acpi
        self._loop = Loop()
        self._reason: str | None = None
        self._triple_fault = False
        self._errors = b""

    def run(self) -> NoReturn:
        """Be the guest until it, or we, end."""
        for port in self._board.uarts.ports:
            port.start(self._loop)
        signals = self._catch_signals()
        # The port's registers are of interest only if somebody may type.
        trace = ["-trace", "serial_write"] if any(port.connected for port in self._board.uarts.ports) else []
        self._qemu = Qemu([*_ENDS, *self._arguments, *trace], self._board.files, acpi=self._acpi)
        self._loop.watch(signals, lambda: self._take_signals(signals))
        self._loop.watch(self._qemu.channel.fileno(), self._take_events)
        self._loop.watch(self._qemu.errors, self._take_errors)
        self._loop.watch(self._qemu.ended, self._end)
        self._loop.call_later(_HALT_SECONDS, self._look_for_halt)
        self._process.say(_CHATTER)
        self._loop.run()

    def _catch_signals(self) -> int:
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
        caught = [signal.SIGTERM]
        if self._build == "hyperkit":
            caught += [signal.SIGUSR1, signal.SIGUSR2]
        for number in caught:
            # To be called is enough: the number arrives by the pipe.
            signal.signal(number, lambda *_: None)
        return ours

    def _take_signals(self, signals: int) -> None:
        for number in os.read(signals, 64):
            match number:
                case signal.SIGTERM:
                    self._press_power_button()
                case signal.SIGUSR1:
                    self._process.print("received sigusr1, pausing\n")
                    self._qemu.execute("stop")
                case signal.SIGUSR2:
                    self._process.print("received sigusr2, unpausing\n")
                    self._qemu.execute("cont")

    def _press_power_button(self) -> None:
        """Press it if the guest has ACPI on; else nobody has ever handled this signal."""

        def answer(said: str) -> None:
            found = _PORT_VALUE.search(said)
            control = _NO_PORT if found is None else int(found[1], 16)
            if control == _NO_PORT or not control & 1:
                self._process.die(signal.SIGTERM)
            self._qemu.execute("system_powerdown")

        if not self._acpi:
            self._process.die(signal.SIGTERM)
        self._qemu.monitor(_READ_PM1A_CONTROL, answer)

    def _look_for_halt(self) -> None:
        def answer(said: str) -> None:
            cpus = [(int(flags, 16), waits) for flags, waits in _FLAGS.findall(said)]
            if cpus and all(waits == "1" and not flags & _INTERRUPTS for flags, waits in cpus):
                self._reason = "halt"
                os.kill(self._qemu.pid, signal.SIGKILL)
            else:
                self._loop.call_later(_HALT_SECONDS, self._look_for_halt)

        self._qemu.monitor("info registers -a", answer)

    def _take_events(self) -> None:
        for event in self._qemu.read_events():
            if event["event"] == "SHUTDOWN":
                self._reason = _REASONS.get(event["data"]["reason"])

    def _take_errors(self) -> None:
        while data := self._qemu.read_errors():
            self._board.uarts.follow(data)
            self._triple_fault |= b"Triple fault" in data
            self._errors = (self._errors + data)[-_ERRORS_KEPT:]

    def _end(self) -> None:
        self._take_events()
        self._take_errors()
        code = self._qemu.wait()
        for port in self._board.uarts.ports:
            port.drain()
        if self._reason is None:
            self._process.say(f"QEMU ended with code {code}:\n{self._errors.decode(errors='replace')}")
            self._process.abort()
        if self._triple_fault and self._reason == "reset":
            self._reason = "triple fault"
        codes = _HYPERKIT_CODES if self._build == "hyperkit" else _CODES
        self._process.exit(codes[self._reason])
