"""Messages between two processes of the plugin, with open files beside them.

This module imports only the standard library, as the scripts of the guardian and of the switch are made of it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any


class Channel:
    """One end of a stream socket pair. Each line is a JSON object; descriptors are sent beside it.

    The sender of a message with descriptors waits for the answer before it sends the next message, so each set of
    descriptors belongs to the message that it arrives with.
    """

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.is_short = False
        """Whether this process could not open all descriptors of the last message."""
        self._read = b""

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        line = json.dumps(message).encode() + b"\n"
        sent = socket.send_fds(self.socket, [line], list(fds))
        # A socket with a timeout takes only what fits into its buffer.
        self.socket.sendall(line[sent:])

    def receive(self) -> tuple[dict[str, Any] | None, list[int]]:
        """The next message and its descriptors; None if the other end is closed."""
        fds: list[int] = []
        self.is_short = False
        while b"\n" not in self._read:
            try:
                data, new, flags, _address = socket.recv_fds(self.socket, 1 << 16, 16)
            except ConnectionError:
                return None, fds
            fds += new
            self.is_short |= bool(flags & socket.MSG_CTRUNC)
            if not data:
                return None, fds
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return json.loads(line), fds

    def pending(self) -> bool:
        """Whether another complete message has already been read."""
        return b"\n" in self._read
