"""The states in which a crash may leave a disk: booted, or checked on the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_xhyve import ConfigurationError, CrashState, Guest, NotSupported, XhyveError
from pytest_xhyve.formats.qcow2 import Qcow2Header, read_qcow2_header

pytestmark = pytest.mark.run_under("warm")

BLOCK = 4096
COUNT = 6


def append(guest: Guest, sync: str, first: int = 1) -> None:
    """Write records to /dev/vdb, and after each one their number; only *sync* keeps the two in order."""
    guest.run(
        f"for n in $(seq {first} {first + COUNT - 1}); do "
        f"echo record $n | dd of=/dev/vdb bs={BLOCK} seek=$n conv=sync{sync} && "
        f"echo $n | dd of=/dev/vdb bs={BLOCK} conv=sync,fsync || exit 1; done"
    )


def every_counted_record_is_there(disk: Path, state: CrashState) -> None:
    content = disk.read_bytes()

    def text(block: int) -> bytes:
        return content[block * BLOCK : (block + 1) * BLOCK].strip(b"\0\n")

    count = int(text(0) or b"0")
    assert count >= max(map(int, state.marks), default=0), "what was acknowledged is counted"
    for number in range(1, count + 1):
        assert text(number) == b"record %d" % number, f"record {number} of {count}"


@pytest.mark.xhyve(image="tiny", disks=["1M"], power_cuts=True)
def test_missing_sync_is_found(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    with pytest.raises(XhyveError, match="the record contains no write"):
        guest.crash_states(check="cat {disk}", boot=False, disk=1)
    append(guest, ",fsync")
    guest.mark(str(COUNT))
    found = guest.crash_states(100, check=every_counted_record_is_there, boot=False, disk=1)
    assert len(found) == 100
    assert {state.marks for state in found} == {(), (str(COUNT),)}
    assert any(state.lost for state in found)
    assert any(state.torn for state in found)
    # The same without the sync between record and number.
    append(guest, "", COUNT + 1)
    with pytest.raises(AssertionError, match=r"record \d+ of") as raised:
        guest.crash_states(50, seed=1, check=every_counted_record_is_there, boot=False, disk=1)
    state = guest.crash_state
    assert state is not None
    assert raised.value.__notes__ == [str(state)]
    assert state.line == f"guest.crash_states(only=[{state.number}], seed=1, disk=1)"
    with pytest.raises(AssertionError, match=r"record \d+ of"):
        guest.crash_states(only=[state.number], seed=1, check=every_counted_record_is_there, boot=False, disk=1)
    assert guest.crash_state == state
    assert guest.run("echo it runs on").stdout == "it runs on\n"

    with pytest.raises(XhyveError, match=r"`cmp /dev/null .*` ended with exit code 1"):
        guest.crash_states(check="cmp /dev/null {disk}", boot=False, disk=1)
    with pytest.raises(XhyveError, match=r"did not end within 0.1 s"):
        guest.crash_states(check=["sh", "-c", "sleep 9", "{disk}"], boot=False, disk=1, timeout=0.1)
    for wrong in (
        {"check": "fsck"},
        {"check": "no-such-program {disk}"},
        {"check": None},
        {"check": "true {disk}", "disk": 2},
        {"check": "true {disk}", "sample": 0},
        {"check": "true {disk}", "seed": "x"},
        {"check": "true {disk}", "only": []},
        {"check": "true {disk}", "sector": 1000},
        {"check": "true {disk}", "boot": True},
    ):
        with pytest.raises(ConfigurationError):
            guest.crash_states(**{"boot": False, **wrong})  # type: ignore[call-overload]
    with pytest.raises(NotSupported, match="has 2 disks"):
        guest.crash_states()


@pytest.mark.thorough
@pytest.mark.xhyve(image="tiny")
def test_guest_boots_on_a_state(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    with pytest.raises(XhyveError, match=r"power_cuts=True"):
        guest.crash_states()
    with pytest.raises(XhyveError, match=r"power_cuts=True"):
        guest.mark("too early")
    guest.record_writes()
    guest.run("echo kept > /root/synced && sync")
    guest.mark("synced")
    guest.run("echo lost > /root/cached")
    for same in guest.crash_states(1, seed=4):
        assert same is guest
        assert guest.crash_state is not None
        there = guest.run("cat /root/synced", check=False).stdout
        assert there in ("", "kept\n")
        assert there == "kept\n" or not guest.crash_state.marks
        guest.run("echo changed > /root/synced")
        with pytest.raises(XhyveError, match="not recorded"):
            guest.power_cut()
    assert guest.crash_state is None
    guest.start()
    assert guest.run("cat /root/synced; ls /root").stdout == "kept\nsynced\n"


def fail_in_a_state(guest: Guest) -> None:
    for _ in guest.crash_states(1, seed=4):
        raise AssertionError("in a state")


@pytest.mark.thorough
@pytest.mark.xhyve(image="tiny", power_cuts=True)
def test_guest_goes_on_in_a_state_with_a_new_record(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    guest.run("echo kept > /root/synced && sync")
    for _ in guest.crash_states(3, seed=4):
        break
    state = guest.crash_state
    assert state is not None
    guest.run("echo kept > /root/later && sync")
    guest.mark("later")
    guest.run("echo lost > /root/cached")
    guest.power_cut()
    guest.start()
    assert guest.run("cat /root/later; ls /root | grep -c cached", check=False).stdout == "kept\n0\n"

    # The loop is left by an error, and the states are those of the new record.
    guest.run("echo kept > /root/synced-again && sync")
    guest.mark("synced again")
    with pytest.raises(AssertionError, match="in a state"):
        fail_in_a_state(guest)
    assert guest.crash_state is not None
    assert set(guest.crash_state.marks) <= {"synced again"}
    guest.kill()
    with pytest.raises(XhyveError, match="is off"):
        guest.power_cut()
    guest.start()
    guest.mark("the next start records, too")


@pytest.mark.thorough
@pytest.mark.xhyve(power_cuts=True)
def test_guest_boots_on_each_state(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    for number in range(5):
        guest.run(f"echo kept > /root/file-{number} && sync")
        guest.mark(f"file-{number}")
    seen = []
    for _ in guest.crash_states(8, seed=1):
        assert guest.crash_state is not None
        for name in guest.crash_state.marks:
            assert guest.run(["cat", f"/root/{name}"]).stdout == "kept\n"
        seen.append(len(guest.crash_state.marks))
    assert len(seen) == 8
    assert seen == sorted(seen), "the states come in the order of time"


@pytest.mark.thorough
@pytest.mark.xhyve(image="tiny", power_cuts=True)
def test_file_system_is_mended_in_each_state(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    guest.run("for n in $(seq 20); do mkdir /root/$n; date > /root/$n/file; mv /root/$n /var/$n; sync; done")
    guest.run("rm -r /var/5 /var/6")
    # 1: the journal was replayed, or an orphan freed; anything else is damage.
    states = guest.crash_states(
        40, check=["sh", "-c", 'e2fsck -fp "$0"; test $? -le 1 && e2fsck -fn "$0"', "{disk}"], boot=False
    )
    assert len(states) == 40


def test_failed_state_is_reported_and_kept(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.xhyve(disks=["1M"], power_cuts=True)

        def test_it(xhyve_module_guest):
            xhyve_module_guest.run("echo written | dd of=/dev/vdb conv=fsync")
            xhyve_module_guest.crash_states(only=[3], check="grep -q nothing {disk}", boot=False, disk=1)

        def test_other(xhyve_module_guest):
            assert False
        """
    )
    result = pytester.runpytest_subprocess("--xhyve-image=tiny", "--xhyve-artifacts=kept")
    result.assert_outcomes(failed=2)
    line = "guest.crash_states(only=[[]3[]], seed=0, disk=1)"
    result.stdout.fnmatch_lines([f"E * crash state 3*again: {line}", "*Captured log xhyve*", f"crash state 3, *{line}"])
    (disk,) = pytester.path.glob("kept/*/*/crash-state-3.qcow2")
    assert disk.match("*test_it*/*/*")
    assert read_qcow2_header(disk) == Qcow2Header(None, encrypted=False, size=1 << 20)
    made = {"test_other" in str(path): path.read_text() for path in pytester.path.glob("kept/*/*/made.txt")}
    assert "crash state 3" in made[False]
    assert "crash state" not in made[True]
