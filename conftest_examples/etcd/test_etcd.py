"""A cluster of three members, which has to go on when it loses its leader.

To copy: `nodes=3`, a fixture that starts a service in all guests, and `kill` of one guest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from pytest_xhyve import Guest, Guests

pytestmark = pytest.mark.xhyve_guests(nodes=3)


def etcdctl(guest: Guest, *arguments: str) -> str:
    """What etcdctl prints in *guest*; its own limits are too short for a guest that is emulated."""
    return guest.run(["etcdctl", "--command-timeout=60s", "--dial-timeout=60s", *arguments]).stdout


def leader(guests: Iterable[Guest]) -> Guest:
    """The one of *guests* whose member is the leader."""
    for guest in guests:
        (member,) = json.loads(etcdctl(guest, "endpoint", "status", "--write-out=json"))
        if member["Status"]["header"]["member_id"] == member["Status"]["leader"]:
            return guest
    raise AssertionError("no member is the leader")


def test_every_member_has_what_one_wrote(etcd: Guests) -> None:
    etcdctl(etcd.node1, "put", "greeting", "hello")
    for guest in etcd:
        assert etcdctl(guest, "get", "greeting", "--print-value-only") == "hello\n"


def test_cluster_survives_the_loss_of_its_leader(etcd: Guests) -> None:
    lost = leader(etcd)
    others = [guest for guest in etcd if guest is not lost]
    etcdctl(lost, "put", "fruit", "apple")
    lost.kill()
    # The others elect a new leader, and take the request then.
    others[0].wait_for("etcdctl --command-timeout=60s put fruit pear", timeout=120)
    assert leader(others) in others
