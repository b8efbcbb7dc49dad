"""Find out whether a guest's network answers, before anything connects to the guest's SSH server.

QEMU's user-mode network accepts each connection at once, and then sends a SYN packet to the guest. While the guest has
no address, that packet is lost. To close the connection does not take it back: libslirp repeats the packet after 6
seconds, and again (tcp_connect in libslirp's src/tcp_subr.c). So each try that came too early reaches the guest later,
as a connection that ends before its login. An SSH server that sees many of them refuses others (MaxStartups and
PerSourcePenalties in sshd_config(5), MAX_UNAUTH_PER_IP in Dropbear's options).

At a port at which nothing listens, the guest's kernel answers a SYN packet with a reset (RFC 9293, section 3.10.7.1):
its network is up. What comes late there costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_xhyve.host.exhaustion import is_readable
from pytest_xhyve.host.tcp import try_to_connect
from pytest_xhyve.hypervisors.base import Endpoint
from pytest_xhyve.model.clock import monotonic

CONNECT_SECONDS = 1.0
"""How long a connection may take to be accepted; a user-mode network accepts it at once."""

LOOK_SECONDS = 0.1
"""How long a guest whose network is up may take to answer a connection."""

# A firewall may drop what it does not know, so that only the SSH server's port answers. It is tried after two seconds,
# and then every two seconds; in a long boot less often, by this share of the time that is over.
_BLIND_SECONDS = 2.0
_BLIND_SHARE = 0.05


class NetworkProbe:
    """Whether it is time to connect to a guest.

    Args:
        find_closed_port: returns an address that leads to a port of the guest at which nothing listens, or None if
            there is none, and each connection is to be tried.
        is_up: whether the network was up when last seen, as that of a restored guest.
    """

    def __init__(self, find_closed_port: Callable[[], Endpoint | None], *, is_up: bool = False) -> None:
        self._find_closed_port = find_closed_port
        self._is_up = is_up
        self._begin = monotonic()
        self._next_blind = self._begin + _BLIND_SECONDS

    def may_connect(self) -> bool:
        """Whether to connect now; this waits up to `LOOK_SECONDS` for the guest's answer."""
        if self._is_up or self._is_time():
            return True
        endpoint = self._find_closed_port()
        self._is_up = endpoint is None or _is_refused(endpoint)
        return self._is_up

    def answered(self) -> None:
        """The guest has ended a connection: its network is up, though its SSH server is not."""
        self._is_up = True

    def not_taken(self) -> None:
        """The guest has not taken a connection: its network is not up, or not any more."""
        self._is_up = False

    def _is_time(self) -> bool:
        """Whether a connection is due although nothing has answered."""
        now = monotonic()
        if now < self._next_blind:
            return False
        self._next_blind = now + max(_BLIND_SECONDS, _BLIND_SHARE * (now - self._begin))
        return True


def _is_refused(endpoint: Endpoint) -> bool:
    """Whether a connection is ended at once by the other side."""
    connection = try_to_connect(endpoint.host, endpoint.port, CONNECT_SECONDS)
    if connection is None:
        return False
    with connection:
        return is_readable(connection, LOOK_SECONDS)
