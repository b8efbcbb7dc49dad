"""A file server and its client (NFS), between which the network is cut, and the server loses its power.

To copy: a server and a client, a command that waits while the test goes on, `partition`, `heal`, `kill` and `start`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_xhyve import Guests

pytestmark = pytest.mark.xhyve_guests(server=None, client=None)

# A server that was restarted lets clients claim what they had for 90 s, if it states no other time.
SETTINGS = b"[nfsd]\ngrace-time=10\nlease-time=10\n"


@pytest.fixture(scope="session")
def xhyve_image() -> Path:
    """The image of both; it is built once."""
    return Path(__file__).parent / "with-nfs"


@pytest.fixture(scope="module")
def share(xhyve_module_guests: Guests) -> Guests:
    """The server has a folder, which the client has mounted."""
    server, client = xhyve_module_guests
    server.put(SETTINGS, "/etc/nfs.conf.d/times.conf")
    server.put(b"/srv client(rw,sync,no_subtree_check,no_root_squash)\n", "/etc/exports")
    server.run("systemctl restart nfs-server && sync", timeout=120)
    client.run("mount -t nfs4 server:/srv /mnt", timeout=120)
    return xhyve_module_guests


def test_each_reads_what_the_other_wrote(share: Guests) -> None:
    share.client.run("echo hello > /mnt/greeting")
    assert share.server.run("cat /srv/greeting").stdout == "hello\n"
    share.server.run("echo goodbye > /srv/answer")
    assert share.client.run("cat /mnt/answer").stdout == "goodbye\n"


def test_write_waits_while_the_network_is_cut(share: Guests) -> None:
    share.partition(["server"], ["client"])
    share.client.run("systemd-run --unit=late sh -c 'echo late > /mnt/late'")
    share.client.run("sleep 2; systemctl is-active late")
    assert share.server.run("test -e /srv/late", check=False).returncode == 1
    share.heal()
    share.server.wait_for("grep -qx late /srv/late", timeout=180)


def test_client_goes_on_when_the_server_is_back(share: Guests) -> None:
    share.client.run("echo kept > /mnt/kept")
    share.server.kill()
    share.client.run("systemd-run --unit=later sh -c 'echo later > /mnt/later'")
    share.server.start()
    share.server.wait_for("grep -qx later /srv/later", timeout=180)
    # The server acknowledges a write only when it is on its disk.
    assert share.client.run("cat /mnt/kept", timeout=120).stdout == "kept\n"
