"""A client for QMP, QEMU's control protocol (docs/interop/qmp-spec.txt in its sources): just what we use of it.

The qemu.qmp package does far more, on asyncio; a dozen commands on a blocking socket need none of that, and its
import alone costs more than a command.
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Mapping
from typing import Any

_CHUNK = 1 << 16


class QmpError(Exception):
    """QEMU refused a command; the message is its own."""


class QmpClosed(Exception):
    """QEMU closed the connection: it has ended, or is about to."""


class QmpClient:
    """A QMP session on a connected socket; safe to use from several threads.

    Args:
        channel: connected to QEMU's monitor; closed by `close`.
        timeout: seconds that an answer may take.
    """

    def __init__(self, channel: socket.socket, timeout: float) -> None:
        channel.settimeout(timeout)
        self._channel = channel
        self._unread = b""
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def negotiate(self) -> None:
        """Read the greeting and enter command mode.

        Raises:
            QmpClosed: QEMU ended before it answered.
        """
        with self._lock:
            self._read()
        self.execute("qmp_capabilities")

    def send_file(self, name: str, fd: int) -> None:
        """Give QEMU a duplicate of the descriptor *fd*, which commands then know as ``fd:`` and *name*."""
        self._execute("getfd", {"fdname": name}, fd)

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run *command* and return what it returns; events on the way are passed over.

        Raises:
            QmpError: QEMU refused.
            QmpClosed: QEMU is gone.
            TimeoutError: no answer in time.
        """
        return self._execute(command, arguments)

    def _execute(self, command: str, arguments: Mapping[str, Any], fd: int | None = None) -> Any:
        """As `execute`; a descriptor goes with the command where *fd* is given (unix(7), SCM_RIGHTS)."""
        with self._lock:
            number = next(self._numbers)
            message = {"execute": command, "arguments": dict(arguments), "id": number}
            try:
                line = json.dumps(message).encode() + b"\n"
                if fd is None:
                    self._channel.sendall(line)
                else:
                    socket.send_fds(self._channel, [line], [fd])
            except (BrokenPipeError, ConnectionError) as error:
                raise QmpClosed(command) from error
            while (answer := self._read()).get("id") != number:
                pass
        if "error" in answer:
            raise QmpError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def monitor(self, line: str) -> str:
        """Run a command of the human monitor and return its text."""
        text: str = self.execute("human-monitor-command", **{"command-line": line})
        return text

    def close(self) -> None:
        """Close the connection; QEMU goes on."""
        with self._lock:
            self._channel.close()

    def _read(self) -> dict[str, Any]:
        # A file over the socket would take no more after a timeout.
        while b"\n" not in self._unread:
            try:
                data = self._channel.recv(_CHUNK)
            except ConnectionError as error:
                raise QmpClosed("reading") from error
            if not data:
                raise QmpClosed("reading")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer
