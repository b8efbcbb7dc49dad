"""The tests that the soak runs, and what they write down."""

from __future__ import annotations

TEST = """
import json, os, time
from pathlib import Path

import pytest

LOG = Path(os.environ["SOAK_LOG"])


def write(event, guest, test, **more):
    line = json.dumps({"event": event, "test": test, "slot": guest.name, "uuid": guest.uuid, **more})
    with LOG.open("a") as log:
        log.write(line + "\\n")


@pytest.mark.parametrize("number", range(int(os.environ["SOAK_TESTS"])))
def test_guest(xhyve_guest, number):
    guest = xhyve_guest
    test = f"{os.getpid()}-{number}-{time.monotonic()}"
    random = guest.run("head -c 16 /dev/urandom | xxd -p").stdout.strip()
    write("begin", guest, test, mac=guest.mac, random=random)
    guest.run("echo changed > /root/file; dd if=/dev/urandom of=/root/more bs=64k count=4 2>/dev/null; sync")
    assert guest.run("cat /root/file").stdout == "changed\\n"
    assert guest.run("hostname").stdout.strip() == guest.name
    write("end", guest, test)
"""
"""Each writes down its guest's identity: when it got the guest, and before it gives it back."""
