"""Writing a stopped guest's memory through QEMU's gdbstub (gdb's manual, appendix E: Remote Serial Protocol)."""

from __future__ import annotations

import socket


class GdbError(Exception):
    """The stub refused, or is gone."""


class GdbStub:
    """A session with the stub at the other end of *channel*.

    Args:
        channel: connected to the stub; stays the caller's.
        timeout: seconds that an answer may take.
    """

    def __init__(self, channel: socket.socket, timeout: float) -> None:
        channel.settimeout(timeout)
        self._channel = channel
        # Addresses are those of the machine, not of a process in it (gdbstub/gdbstub.c in QEMU).
        self._ask("Qqemu.PhyMemMode:1")

    def write(self, address: int, data: bytes) -> None:
        """Write *data* at the physical *address*.

        Raises:
            GdbError: it cannot be written.
        """
        self._ask(f"M{address:x},{len(data):x}:{data.hex()}")

    def detach(self) -> None:
        """End the session; the guest's CPUs run."""
        self._ask("D")

    def _ask(self, command: str) -> None:
        packet = f"${command}#{sum(command.encode()) & 0xFF:02x}".encode()
        try:
            self._channel.sendall(packet)
            answer = b""
            while b"#" not in answer[:-2]:
                got = self._channel.recv(4096)
                if not got:
                    raise GdbError("the stub is gone")
                answer += got
            self._channel.sendall(b"+")
        except OSError as error:
            raise GdbError(f"the stub does not answer: {error}") from error
        if b"$OK#" not in answer:
            raise GdbError(f"{command[:24]} was answered with {answer!r}")
