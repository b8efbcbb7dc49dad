"""A client for QMP, QEMU's control protocol (docs/interop/qmp-spec.txt in its sources): only the part in use.

The qemu.qmp package does far more, on asyncio. A dozen commands on a blocking socket do not need that, and its import
alone takes longer than a command.
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Mapping
from typing import Any

from pytest_xhyve.model.clock import monotonic

_CHUNK = 1 << 16


class QmpError(Exception):
    """QEMU refused a command; the message contains its reason."""


class QmpClosed(Exception):
    """QEMU closed the connection: it has exited, or will soon."""


class QmpClient:
    """A QMP session on a connected socket; safe to use from several threads.

    Args:
        channel: a socket that is connected to QEMU's monitor; `close` closes it.
        timeout: limit for an answer, in seconds.
    """

    def __init__(self, channel: socket.socket, timeout: float) -> None:
        channel.settimeout(timeout)
        self._channel = channel
        self._timeout = timeout
        self._unread = b""
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def negotiate(self) -> None:
        """Read the greeting and enter command mode.

        Raises:
            QmpClosed: QEMU exited before it answered.
        """
        with self._lock:
            self._read(monotonic() + self._timeout)
        self.execute("qmp_capabilities")

    def send_file(self, name: str, fd: int) -> None:
        """Give QEMU a duplicate of the descriptor *fd*; commands then name it ``fd:NAME``."""
        self._execute("getfd", {"fdname": name}, fd)

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run *command* and return its result; events are skipped.

        Raises:
            QmpError: QEMU refused the command.
            QmpClosed: QEMU has exited.
            TimeoutError: QEMU did not answer in time.
        """
        return self._execute(command, arguments)

    def _execute(self, command: str, arguments: Mapping[str, Any], fd: int | None = None) -> Any:
        """Like `execute`; if *fd* is given, send that descriptor with the command (unix(7), SCM_RIGHTS)."""
        with self._lock:
            number = next(self._numbers)
            # Events come before the answer, as many as the guest causes.
            end = monotonic() + self._timeout
            message = {"execute": command, "arguments": dict(arguments), "id": number}
            try:
                self._channel.settimeout(self._timeout)
                line = json.dumps(message).encode() + b"\n"
                if fd is None:
                    self._channel.sendall(line)
                else:
                    socket.send_fds(self._channel, [line], [fd])
            except (BrokenPipeError, ConnectionError) as error:
                raise QmpClosed(command) from error
            while (answer := self._read(end)).get("id") != number:
                pass
        if "error" in answer:
            raise QmpError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def monitor(self, line: str) -> str:
        """Run a command of the human monitor and return its output."""
        text: str = self.execute("human-monitor-command", **{"command-line": line})
        return text

    def close(self) -> None:
        """Close the connection; QEMU goes on."""
        with self._lock:
            self._channel.close()

    def _read(self, end: float) -> dict[str, Any]:
        # Not socket.makefile: such a file cannot be read any more after a timeout.
        while b"\n" not in self._unread:
            left = end - monotonic()
            if left <= 0:
                raise TimeoutError("QEMU did not answer in time")
            try:
                self._channel.settimeout(left)
                data = self._channel.recv(_CHUNK)
            except ConnectionError as error:
                raise QmpClosed("reading") from error
            if not data:
                raise QmpClosed("reading")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer
