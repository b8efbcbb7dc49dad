"""The cable between a guest's network card and the switch of a LAN: the end that the hypervisor does not have."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CableEnd:
    """The host's end of a cable.

    Attributes:
        frames: a stream socket, on which each frame follows its length in four bytes, or a datagram socket, on which
            each datagram is a frame.
        life: a socket that ends when the hypervisor ends; None if *frames* does so itself. A datagram socket does not.
    """

    frames: socket.socket
    life: socket.socket | None = None

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """All of its sockets."""
        return (self.frames,) if self.life is None else (self.frames, self.life)

    def close(self) -> None:
        """Close this process's descriptors of it."""
        for each in self.sockets:
            each.close()
