"""Write to a stopped guest's memory through QEMU's gdbstub (gdb's manual, appendix E: Remote Serial Protocol)."""

from __future__ import annotations

import socket


class GdbError(Exception):
    """The stub refused a command, or closed the connection."""


class GdbStub:
    """A session with the stub at the other end of *channel*.

    Args:
        channel: a socket that is connected to the stub; the caller closes it.
        timeout: limit for an answer, in seconds.
    """

    def __init__(self, channel: socket.socket, timeout: float) -> None:
        channel.settimeout(timeout)
        self._channel = channel
        # Addresses are physical ones, not those of a process in the guest (gdbstub/gdbstub.c in QEMU).
        self._ask("Qqemu.PhyMemMode:1")

    def write(self, address: int, data: bytes) -> None:
        """Write *data* at the physical *address*.

        Raises:
            GdbError: the stub cannot write it.
        """
        self._ask(f"M{address:x},{len(data):x}:{data.hex()}")

    def detach(self) -> None:
        """End the session and let the guest's CPUs run."""
        self._ask("D")

    def _ask(self, command: str) -> None:
        packet = f"${command}#{sum(command.encode()) & 0xFF:02x}".encode()
        try:
            self._channel.sendall(packet)
            answer = b""
            while b"#" not in answer[:-2]:
                got = self._channel.recv(4096)
                if not got:
                    raise GdbError("the stub closed the connection")
                answer += got
            self._channel.sendall(b"+")
        except OSError as error:
            raise GdbError(f"the stub does not answer: {error}") from error
        if b"$OK#" not in answer:
            raise GdbError(f"the stub answered {command[:24]} with {answer!r}")
