"""The tests that the soak runs, and what they write down."""

from __future__ import annotations

TEST = """
import json, os, time
from pathlib import Path

import pytest

LOG = Path(os.environ["SOAK_LOG"])
TESTS = range(int(os.environ["SOAK_TESTS"]))


def write(event, guest, **more):
    slot = f"slot {guest._folder.name.rpartition('-')[2]}"
    line = json.dumps({"event": event, "slot": slot, "uuid": guest.uuid, **more})
    with LOG.open("a") as log:
        log.write(line + "\\n")


def begin(guest, number):
    test = f"{os.getpid()}-{number}-{time.monotonic()}"
    random = guest.run("head -c 16 /dev/urandom | xxd -p").stdout.strip()
    write("begin", guest, test=test, mac=guest.mac, random=random)
    assert guest.run("hostname").stdout.strip() == guest.name
    return test


@pytest.mark.parametrize("number", TESTS[::2])
def test_guest(xhyve_guest, number):
    guest = xhyve_guest
    test = begin(guest, number)
    guest.run("echo changed > /root/file; dd if=/dev/urandom of=/root/more bs=64k count=4 2>/dev/null; sync")
    assert guest.run("cat /root/file").stdout == "changed\\n"
    write("end", guest, test=test)


# Each cluster has the same names and addresses.
@pytest.mark.parametrize("xhyve_guests", [2, 3], indirect=True)
@pytest.mark.parametrize("number", TESTS[1::4])
def test_cluster(xhyve_guests, number):
    tests = {guest: begin(guest, number) for guest in xhyve_guests}
    server, *clients = xhyve_guests
    server.run(["sh", "-c", 'echo "$0" > /root/text', tests[server]])
    server.run("nc -ll -p 5000 -e cat /root/text > /dev/null 2>&1 < /dev/null &")
    server.wait_for_port(5000)
    for client in clients:
        for _ in range(5):
            # If the server is killed meanwhile, the client waits for ever.
            text = client.run("nc node1 5000 < /dev/null", timeout=20).stdout.strip()
            write("received", client, text=text, sent=tests[server])
            assert text
    for guest, test in tests.items():
        write("end", guest, test=test)
"""
"""Each writes down its guests' identities: when it got them, and before it gives them back.

Those of a cluster also write down what they received from each other.
"""
