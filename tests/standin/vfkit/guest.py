"""A guest of vfkit's: its console, its states, and what signals and requests do to it (cmd/vfkit/main.go)."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from standin.loop import Loop
from standin.process import Process
from standin.qemu import Qemu
from standin.vfkit.flags import failed
from standin.vfkit.log import write
from standin.vfkit.rest import Answer, Server

_CHUNK = 65536
_STOP_SECONDS = 5.0
_ERRORS_KEPT = 65536


class Guest:
    """A guest that starts with `run`.

    Args:
        arguments: QEMU's, for its devices.
        files: the descriptors that QEMU gets.
        console: the end of the guest's console that QEMU does not have, or None if the guest has none.
        configuration: what ``/vm/inspect`` shows.
        process: this process.
    """

    def __init__(
        self,
        arguments: list[str],
        files: list[int],
        console: socket.socket | None,
        configuration: Mapping[str, object],
        process: Process,
    ) -> None:
        self._arguments = arguments
        self._files = files
        self._console = console
        self._configuration = configuration
        self._process = process
        self._loop = Loop()
        self._errors = b""
        self._state = "Starting"
        self._is_forced = False

    def run(self, rest: str | None) -> NoReturn:
        """Be the guest until it, or we, end; *rest* is the path of the REST interface's socket."""
        if rest is not None:
            try:
                Server(rest, self._loop, self._answer)
            except OSError as error:
                reason = "address already in use" if error.errno == errno.EADDRINUSE else str(error.strerror).lower()
                write("fatal", f"listen unix {rest}: bind: {reason}", self._process)
                self._process.exit(1)
            self._process.at_exit(lambda: Path(rest).unlink(missing_ok=True))
        signals, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            # To be called is enough: the number arrives by the pipe.
            signal.signal(number, lambda *_: None)
        self._qemu = Qemu(self._arguments, self._files, acpi=True)
        self._loop.watch(signals, lambda: self._take_signals(signals))
        self._loop.watch(self._qemu.channel.fileno(), self._take_events)
        self._loop.watch(self._qemu.errors, self._take_errors)
        self._loop.watch(self._qemu.ended, self._end)
        if self._console is not None:
            self._connect(self._console)
        self._qemu.execute("query-status", lambda _: self._has_started())
        self._loop.run()

    def _has_started(self) -> None:
        self._state = "Running"
        write("info", "virtual machine is running", self._process)
        write("info", "waiting for VM to stop", self._process)

    def _connect(self, console: socket.socket) -> None:
        console.setblocking(False)
        self._loop.watch(console.fileno(), lambda: self._show(console))
        self._loop.watch(0, lambda: self._pass_on(console))

    def _show(self, console: socket.socket) -> None:
        data = b""
        with suppress(OSError):
            data = console.recv(_CHUNK)
        while data:
            data = data[os.write(1, data) :]

    def _pass_on(self, console: socket.socket) -> None:
        data = b""
        with suppress(OSError):
            data = os.read(0, _CHUNK)
        if not data:
            self._loop.ignore(0)
        with suppress(OSError):
            console.send(data)

    def _take_signals(self, signals: int) -> None:
        for _ in os.read(signals, 64):
            self._qemu.execute("system_powerdown")
            self._loop.call_later(_STOP_SECONDS, self._stop)

    def _stop(self) -> None:
        if not self._is_forced:
            self._is_forced = True
            os.kill(self._qemu.pid, signal.SIGKILL)

    def _answer(self, method: str, path: str, body: bytes) -> Answer:
        match method, path:
            case "GET", "/vm/inspect":
                return 200, self._configuration
            case "GET", "/vm/state":
                can_run = {"Running": ("canPause", "canStop", "canHardStop"), "Paused": ("canResume", "canHardStop")}
                names = ("canStart", "canPause", "canResume", "canStop", "canHardStop")
                now = can_run.get(self._state, ())
                return 200, {"state": f"VirtualMachineState{self._state}", **{name: name in now for name in names}}
            case "POST", "/vm/state":
                return self._change_state(body)
        return 404, None

    def _change_state(self, body: bytes) -> Answer:
        try:
            wanted = json.loads(body)["state"]
        except (ValueError, KeyError, TypeError):
            return 400, {"error": "invalid request"}
        changes: dict[tuple[str, str], Callable[[], None]] = {
            ("Running", "Pause"): lambda: self._enter("Paused", "stop"),
            ("Paused", "Resume"): lambda: self._enter("Running", "cont"),
            ("Running", "Stop"): lambda: self._qemu.execute("system_powerdown"),
            ("Running", "HardStop"): self._stop,
            ("Paused", "HardStop"): self._stop,
        }
        if wanted not in {name for _, name in changes}:
            return 500, {"error": f"invalid new VMState: {wanted}"}
        change = changes.get((self._state, wanted))
        if change is None:
            return 500, {"error": "Error Domain=VZErrorDomain Code=3 Description=Invalid virtual machine state."}
        change()
        return 202, None

    def _enter(self, state: str, command: str) -> None:
        self._state = state
        self._qemu.execute(command)

    def _take_events(self) -> None:
        self._qemu.read_events()

    def _take_errors(self) -> None:
        while data := self._qemu.read_errors():
            self._errors = (self._errors + data)[-_ERRORS_KEPT:]

    def _end(self) -> None:
        self._take_errors()
        code = self._qemu.wait()
        if self._console is not None:
            self._show(self._console)
        if code != 0 and not self._is_forced:
            self._process.say(f"QEMU ended with code {code}:\n{self._errors.decode(errors='replace')}")
            error = failed("virtualization error: hypervisor virtualization error")
            self._process.say(error.stderr)
            self._process.exit(1)
        write("info", "VM is stopped", self._process)
        self._process.exit(0)
