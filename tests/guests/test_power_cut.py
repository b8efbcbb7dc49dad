"""What a power cut leaves: what was flushed, and nothing else."""

from __future__ import annotations

import re
from contextlib import closing

import pytest

from pytest_xhyve import BootFailed, ConfigurationError, Guest, NotSupported, XhyveError
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

pytestmark = pytest.mark.run_under("qemu", "warm")

# An overwrite in place, past the page cache, and not flushed: the blocks of `marked` are on the disk already.
WRITE = (
    "dd if=/dev/zero of=/root/marked bs=4096 count=1 conv=fsync && "
    "tr '\\0' X < /dev/zero | dd of=/dev/shm/x bs=4096 count=1 iflag=fullblock && "
    "sync && echo kept > /root/flushed && sync && "
    "dd if=/dev/shm/x of=/root/marked bs=4096 count=1 conv=notrunc oflag=direct && "
    "echo lost > /root/cached"
)
FIRST_BYTES = "head -c 8 /root/marked | tr '\\0' 0"


def write(guest: Guest) -> None:
    guest.run(WRITE)
    assert guest.run(FIRST_BYTES).stdout == "XXXXXXXX"


def found(guest: Guest) -> tuple[str, str, int]:
    """What is there of the unflushed write, of the flushed file, and of the file that was only cached."""
    there = guest.run("test -e /root/cached", check=False).returncode == 0
    return guest.run(FIRST_BYTES).stdout, guest.run("cat /root/flushed", check=False).stdout, there


@pytest.mark.xhyve(image="tiny", power_cuts=True)
def test_cut_keeps_what_was_flushed(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    write(guest)
    # A pause is not a flush, although QEMU flushes then.
    guest.pause()
    guest.power_cut()
    with pytest.raises(XhyveError, match="is off"):
        guest.power_cut()
    guest.start()
    assert found(guest) == ("00000000", "kept\n", False)


@pytest.mark.thorough
@pytest.mark.xhyve(power_cuts=True)
def test_record_goes_on_after_each_start(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    for _ in range(2):
        write(guest)
        guest.power_cut()
        guest.start()
        assert found(guest) == ("00000000", "kept\n", False)


@pytest.mark.thorough
@pytest.mark.xhyve(image="tiny", disks=["1M"])
def test_record_begins_later(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    guest.run("echo before > /root/before")
    guest.record_writes()
    guest.record_writes()
    guest.run(
        "sync; echo other | dd of=/dev/vdb conv=fsync; echo lost | dd of=/dev/vdb seek=8 oflag=direct bs=512 conv=sync"
    )
    guest.power_cut()
    guest.start()
    assert guest.run(
        "cat /root/before; head -c 6 /dev/vdb; dd if=/dev/vdb skip=8 count=1 2>&- | tr -d '\\0'"
    ).stdout == ("before\nother\n")


@pytest.mark.xhyve(image="tiny")
def test_cut_needs_a_record_and_a_record_has_a_limit(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    with pytest.raises(XhyveError, match=re.escape("@pytest.mark.xhyve(power_cuts=True)")):
        guest.power_cut()
    assert guest.run("echo still here").stdout == "still here\n"
    with pytest.raises(ConfigurationError, match="not a size"):
        guest.record_writes(max_size="much")
    guest.record_writes(max_size="2M")
    with pytest.raises(BootFailed, match="the record of its writes is full"):
        guest.run("dd if=/dev/zero of=/root/large bs=1M count=8; sync")


@pytest.mark.thorough
@pytest.mark.xhyve(image="tiny", power_cuts=True, reset=True)
class TestSharedGuest:
    """Each test finds what the first one found, also after a cut."""

    @pytest.mark.parametrize("end", ["cut", "kill", "none"])
    def test_reset(self, xhyve_class_guest: Guest, end: str) -> None:
        guest = xhyve_class_guest
        assert guest.run("ls /root").stdout == ""
        write(guest)
        if end != "none":
            (guest.power_cut if end == "cut" else guest.kill)()
            guest.start()
            assert found(guest)[0] == ("00000000" if end == "cut" else "XXXXXXXX")
        write(guest)
        guest.power_cut()


@pytest.mark.run_under("xhyve")
def test_only_qemu_can(settings: Settings) -> None:
    with (
        closing(Fleet(settings, Home.of_user())) as fleet,
        pytest.raises(NotSupported, match=r"xhyve cannot record .*\n.*--xhyve-hypervisor=qemu"),
    ):
        fleet.start(ForegroundRequest(GuestSpec(image="tiny", power_cuts=True)))


@pytest.mark.thorough
@pytest.mark.parametrize(("end", "left"), [("power_cut", "00000000"), ("kill", "XXXXXXXX")])
@pytest.mark.xhyve(image="tiny", power_cuts=True)
def test_twenty_ends(xhyve_guest: Guest, end: str, left: str) -> None:
    """A cut takes back every unflushed write, and a kill takes back none that has reached the disk."""
    seen = []
    for _ in range(20):
        write(xhyve_guest)
        getattr(xhyve_guest, end)()
        xhyve_guest.start()
        seen.append(found(xhyve_guest)[:2])
    assert seen == [(left, "kept\n")] * 20
