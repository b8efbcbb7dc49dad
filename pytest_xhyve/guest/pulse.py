"""Whether a guest still answers: keepalives over its SSH connection."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import paramiko

from pytest_xhyve.model.clock import monotonic

_ASK_AFTER_SECONDS = 1.0
_LOOK_SECONDS = 0.05
# OpenSSH takes packets of 256 KiB; the plugin asks for data in packets of 32 KiB.
_MOST_BYTES = 1 << 20
# OpenSSH's own. A server that does not know it still has to answer (RFC 4254, section 4).
_KEEPALIVE = "keepalive@openssh.com"


class HeardSocket(socket.socket):
    """A connected socket that notes when data arrived last.

    paramiko asks it for the rest of a packet, whose length the server has named: up to 4 GiB.
    """

    heard = 0.0

    @classmethod
    def adopt(cls, connection: socket.socket) -> HeardSocket:
        """Take *connection* over, whose timeout is kept; *connection* itself cannot be used any more."""
        timeout = connection.gettimeout()
        adopted = cls(fileno=connection.detach())
        adopted.settimeout(timeout)
        adopted.heard = monotonic()
        return adopted

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        if size > _MOST_BYTES:
            raise paramiko.SSHException(f"the server announces a packet of {size} bytes")
        data = super().recv(size, flags)
        if data:
            self.heard = monotonic()
        return data


class Pulse:
    """Asks the SSH server of a guest for a sign of life, while something waits for the guest.

    A command that is busy and prints nothing is not a silent guest: the server answers for it. The plugin has to ask
    for an answer itself: paramiko's keepalives ask for none, and under QEMU each packet is acknowledged by QEMU.

    Args:
        transport: paramiko's.
        connection: the transport's socket.
    """

    def __init__(self, transport: paramiko.Transport, connection: HeardSocket) -> None:
        self._transport = transport
        self._connection = connection
        self._lock = threading.Lock()
        self._asked = 0.0
        self._asking: threading.Thread | None = None
        self.sessions: set[paramiko.Channel] = set()
        """The channels of commands that the plugin runs over the connection."""

    @property
    def heard(self) -> float:
        """When the guest sent something last, on the monotonic clock."""
        return self._connection.heard

    def silence(self) -> float:
        """For how many seconds the guest has not answered; 0 if it has. Asks it if it has sent nothing for a while."""
        if monotonic() - self._connection.heard >= _ASK_AFTER_SECONDS:
            self._ask()
        return 0.0 if self._connection.heard >= self._asked else monotonic() - self._asked

    def answers(self, timeout: float) -> bool:
        """Ask now, and wait for an answer for at most *timeout* seconds."""
        begin = monotonic()
        while self._transport.is_active() and monotonic() < begin + timeout:
            if self._connection.heard > self._asked >= begin:
                return True
            self._ask()
            time.sleep(_LOOK_SECONDS)
        return False

    def _ask(self) -> None:
        with self._lock:
            # While a question is open, no other one is asked.
            if self._connection.heard < self._asked or (self._asking is not None and self._asking.is_alive()):
                return
            self._asked = monotonic()
            # Sending waits for as long as the guest takes no data.
            self._asking = threading.Thread(target=self._ask_and_wait, daemon=True)
            self._asking.start()

    def _ask_and_wait(self) -> None:
        # paramiko raises whatever ended its own thread; the one who waits for the guest notices that, too.
        with contextlib.suppress(Exception):
            self._transport.global_request(_KEEPALIVE, wait=True)
