"""Faults in the background, while the guest works, and after the guest was restarted."""

from __future__ import annotations

import threading
import time

import pytest

from pytest_xhyve import ConfigurationError, Guest

pytestmark = pytest.mark.run_under("warm")


@pytest.mark.thorough
@pytest.mark.xhyve(image="tiny", disks=["1M"])
def test_every_fault_ends(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    every = ["slow disk", "failing disk", "slow cpu", "pause", "wrong clock"]
    with guest.chaos(seed=1, faults=every, every=0.5) as chaos:
        end = time.monotonic() + 120
        while set(chaos.injected) != set(every) and time.monotonic() < end:
            guest.run("echo kept > /root/file && sync")
    assert set(chaos.injected) == set(every)
    assert chaos.skipped == ()
    # The guest is as before.
    guest.run(
        "dd if=/dev/zero of=/dev/vdb bs=1M count=1 oflag=direct && dd if=/dev/vdb of=/dev/null bs=1M iflag=direct"
    )
    assert abs(int(guest.run("date +%s").stdout) - time.time()) < 2
    assert not [thread for thread in threading.enumerate() if thread.name in ("xhyve-chaos", "xhyve-throttle")]
    with pytest.raises(ConfigurationError):
        guest.chaos(seed=1, faults=["nothing"])

    with guest.chaos(seed=1, every=0.2) as chaos:
        guest.kill()
        time.sleep(0.5)
        guest.start()
    assert chaos.skipped
    assert guest.run("cat /root/file").stdout == "kept\n"
