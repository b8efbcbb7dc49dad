"""A cluster of etcd with three members, in guests of an image with Debian's packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_xhyve import Guests

# The times, in milliseconds, are for guests that are emulated.
SETTINGS = """\
ETCD_NAME={name}
ETCD_LISTEN_PEER_URLS=http://0.0.0.0:2380
ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379
ETCD_INITIAL_ADVERTISE_PEER_URLS=http://{name}:2380
ETCD_ADVERTISE_CLIENT_URLS=http://{name}:2379
ETCD_INITIAL_CLUSTER={members}
ETCD_HEARTBEAT_INTERVAL=1000
ETCD_ELECTION_TIMEOUT=10000
"""
# systemd waits 90 s for a service that does not state how long it may take.
LIMIT = b"[Service]\nTimeoutStartSec=10min\n"


@pytest.fixture(scope="session")
def xhyve_image() -> Path:
    """The image for all tests of this folder; it is built once."""
    return Path(__file__).parent / "debian12-etcd"


@pytest.fixture(scope="module")
def etcd(xhyve_module_guests: Guests) -> Guests:
    """The guests, in which the members run and have found each other."""
    guests = xhyve_module_guests
    members = ",".join(f"{name}=http://{name}:2380" for name in guests.names)
    for guest in guests:
        guest.put(SETTINGS.format(name=guest.name, members=members).encode(), "/etc/default/etcd")
        guest.put(LIMIT, "/etc/systemd/system/etcd.service.d/limit.conf")
    # systemd waits until a member is ready, and none is before two of them have found each other.
    guests.run_all("systemctl daemon-reload && systemctl enable --now etcd")
    # A guest that is killed loses what is not on its disk yet; what etcd writes, it syncs itself.
    guests.run_all("sync")
    return guests
