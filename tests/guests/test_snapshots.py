"""Snapshots that a test takes and restores itself."""

from __future__ import annotations

import time
from collections import namedtuple

import pytest

from pytest_xhyve import Guest, GuestFactory, XhyveError

pytestmark = pytest.mark.run_under("warm")


def refuse(*_: object) -> None:
    raise XhyveError("refused")


@pytest.mark.xhyve(image="tiny", power_cuts=True)
def test_snapshot_brings_back_everything(xhyve_guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = xhyve_guest
    guest.run("echo first > /root/file; echo memory > /dev/shm/file; sleep 1000 > /dev/null 2>&1 &")
    boot = guest.run("cat /proc/sys/kernel/random/boot_id").stdout
    snapshot = guest.snapshot()
    assert guest.run("cat /root/file").stdout == "first\n", "it runs on"
    guest.run("echo second > /root/file; sync; rm /dev/shm/file; killall sleep")
    random = set()
    for _ in range(2):
        guest.restore(snapshot)
        assert guest.run("cat /root/file /dev/shm/file; pidof sleep | wc -w").stdout == "first\nmemory\n1\n"
        assert abs(int(guest.run("date +%s").stdout) - time.time()) < 2
        random.add(guest.run("cat /proc/sys/kernel/random/uuid").stdout)
        guest.run("echo third > /root/file; sync; killall sleep")
    assert len(random) == 2
    assert guest.run("cat /proc/sys/kernel/random/boot_id").stdout == boot
    # A second one, of a guest that is restored and recorded, and that the test has paused.
    guest.pause()
    second = guest.snapshot()
    assert guest._power.machine.is_paused()
    guest.resume(clock="now")
    guest.run("echo lost | dd of=/root/file conv=notrunc oflag=direct bs=512 conv=sync")
    guest.power_cut()
    guest.restore(second)
    assert guest.run("cat /root/file").stdout == "third\n"

    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda _: usage(1 << 40, 1 << 40, 1 << 20))
        with pytest.raises(XhyveError, match=r"no space for a snapshot .* 1 MiB are free"):
            guest.snapshot()
    # One that fails once the guest writes to other disks, as on a full disk: what it writes then is not lost.
    with monkeypatch.context() as patched:
        patched.setattr(type(guest._power.machine), "save_state", refuse)
        with pytest.raises(XhyveError, match="refused"):
            guest.snapshot()
    guest.run("echo later > /root/file; sync")
    guest.kill()
    guest.start()
    assert guest.run("cat /root/file").stdout == "later\n"
    guest.kill()
    with pytest.raises(XhyveError, match="is off"):
        guest.snapshot()
    guest.restore(snapshot)
    assert guest.run("cat /root/file").stdout == "first\n"
    snapshot.remove()
    with pytest.raises(XhyveError, match="was removed"):
        guest.restore(snapshot)


@pytest.mark.thorough
@pytest.mark.timeout(1200)
@pytest.mark.xhyve(image="tiny")
def test_a_hundred_snapshots(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    guest.run("echo 0 | tee /root/disk /dev/shm/memory")
    first = guest.snapshot()
    for number in range(1, 100):
        guest.run(f"echo {number} | tee /root/disk /dev/shm/memory")
        last = guest.snapshot()
        if number < 99:
            # Only its disks are needed then: the later ones are based on them.
            last.remove()
    for snapshot, number in ((last, 99), (first, 0), (last, 99)):
        guest.restore(snapshot)
        assert guest.run("cat /root/disk /dev/shm/memory").stdout == 2 * f"{number}\n"


@pytest.mark.thorough
def test_snapshot_of_another_guest(xhyve_guest_factory: GuestFactory) -> None:
    with xhyve_guest_factory(image="tiny") as one, xhyve_guest_factory(image="tiny") as other:
        snapshot = one.snapshot()
        with pytest.raises(XhyveError, match=f"is one of guest {one.name}"):
            other.restore(snapshot)


@pytest.mark.thorough
@pytest.mark.run_under("qemu", "warm")
def test_on_any_image(xhyve_guest: Guest) -> None:
    """Also of a guest that booted, and so has no second serial port."""
    guest = xhyve_guest
    guest.run("echo first > /root/file")
    for _ in range(2):
        snapshot = guest.snapshot()
        guest.run("echo second > /root/file; sync")
        guest.restore(snapshot)
        assert guest.run("cat /root/file").stdout == "first\n"
    guest.reboot()
    assert guest.run("cat /root/file").stdout == "first\n"


@pytest.mark.thorough
@pytest.mark.xhyve(image="tiny", reset=True)
class TestSharedGuest:
    @pytest.mark.parametrize("number", [1, 2])
    def test_reset_after_a_snapshot(self, xhyve_class_guest: Guest, number: int) -> None:
        guest = xhyve_class_guest
        assert guest.run("ls /root").stdout == "", number
        snapshot = guest.snapshot()
        guest.run("touch /root/new")
        guest.restore(snapshot)
        assert guest.run("ls /root; touch /root/other").stdout == ""
