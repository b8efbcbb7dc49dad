"""Notice that the host does not let this process reach its guest.

From macOS 15 on, a program needs the user's permission to connect to the local network, to which guests belong
("Local Network privacy", Apple's technical note TN3179). Without it, each connection fails at once with EHOSTUNREACH
(kubernetes/minikube#23691, #23712). So does a connection whose route leads into a VPN. A guest that still boots looks
different: nothing answers, and the connection times out.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import BootFailed
from pytest_xhyve.model.machine import SSH_PORT

_REFUSED_SECONDS = 5.0
_APART_SECONDS = 0.5
_CONNECT_SECONDS = 0.3


class Reachability:
    """Whether one guest can be reached, since its start.

    Args:
        name: the guest's name.
        connect: tries to connect to an address; returns the number of the error, or 0.
        clock: seconds that only increase.
    """

    def __init__(
        self, name: str, connect: Callable[[str], int] | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        self._name = name
        self._connect = connect or _connect
        self._clock = clock
        self._reached = False
        self._refused_since: float | None = None
        self._asked = 0.0

    def check(self, address: str) -> None:
        """Try to connect to *address*, which the guest has got since its start; at most twice a second.

        Raises:
            BootFailed: for some seconds, the host had no route to the guest.
        """
        now = self._clock()
        if self._reached or now < self._asked + _APART_SECONDS:
            return
        self._asked = now
        error = self._connect(address)
        if error != errno.EHOSTUNREACH:
            self._refused_since = None
            # A refused connection proves as much as an open one.
            self._reached = error in (0, errno.ECONNREFUSED)
            return
        if self._refused_since is None:
            self._refused_since = now
        if now - self._refused_since >= _REFUSED_SECONDS:
            raise BootFailed(explain(self._name, address, is_root=os.geteuid() == 0))


def explain(name: str, address: str, *, is_root: bool) -> str:
    """Why the host has no route to the guest *name* at *address*, and the fix.

    Args:
        name: the guest's name.
        address: its IPv4 address.
        is_root: whether this process runs as root, to which Local Network privacy does not apply.
    """
    route = f"a VPN may route its network elsewhere: `route -n get {address}` must name bridge100"
    if is_root:
        return (
            f'guest {name} got the address {address}, but this host has "no route to host"\n'
            f"  {route}; `pytest-xhyve doctor --fix-vpn` helps, or the VPN's settings"
        )
    return (
        f'guest {name} got the address {address}, but macOS refuses to connect to it ("no route to host")\n'
        "  macOS 15 and later: allow it in System Settings > Privacy & Security > Local Network, for the application "
        "that runs pytest (the terminal, the editor, the CI agent); then quit and reopen that application\n"
        f"  if it is allowed there, or on an older macOS, {route}"
    )


def _connect(address: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(_CONNECT_SECONDS)
        return connection.connect_ex((address, SSH_PORT))
