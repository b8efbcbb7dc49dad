"""Guests that are restored from a template: each is a machine of its own."""

from __future__ import annotations

import base64
import shlex
import struct
import time
from uuid import UUID

import pytest
from warm import LOG, check_identity, fleet_of, is_warm

from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.spec import GuestSpec

GUESTS = 4


DRAWN = 8 << 10


WINDOW = 8


class TestRandomNumbers:
    """Constant parts are taken off, so that whatever occurs twice was drawn twice."""

    @staticmethod
    def urandom(guest: Guest) -> bytes:
        line = f"dd if=/dev/urandom bs={DRAWN} count=1 2>/dev/null | base64"
        return base64.b64decode(guest.run(line).stdout)

    @staticmethod
    def getrandom(guest: Guest) -> bytes:
        code = f"import base64, os; print(base64.b64encode(b''.join(os.getrandom(256) for _ in range({DRAWN // 256}))))"
        return base64.b64decode(guest.run(["python3", "-c", code]).stdout.strip()[2:-1])

    @staticmethod
    def uuids(guest: Guest) -> bytes:
        # Read by the shell itself: a process for each would take many seconds.
        line = (
            f"i=0; while [ $i -lt {DRAWN // 16} ]; do read -r uuid </proc/sys/kernel/random/uuid; echo $uuid; "
            "i=$((i + 1)); done"
        )
        return b"".join(UUID(uuid).bytes for uuid in guest.run(line).stdout.split())

    @staticmethod
    def host_key(guest: Guest) -> bytes:
        line = "ssh-keygen -q -t ed25519 -N '' -f /tmp/new && cat /tmp/new.pub"
        blob = base64.b64decode(guest.run(line).stdout.split()[1])
        # Behind the name of its kind there is the key itself (RFC 8709, section 4).
        return blob[-32:]

    def draw(self, guest: Guest) -> list[bytes]:
        ways = [self.urandom, self.getrandom, self.uuids, self.host_key]
        # The key comes last: what the other ways give is nearest to the moment at which all guests were the same.
        drawn = [way(guest) for way in ways]
        assert [len(data) for data in drawn] == [32 if way is self.host_key else DRAWN for way in ways]
        return drawn

    @staticmethod
    def count_repeated(pieces: list[bytes]) -> tuple[int, int]:
        """How many windows of 8 bytes there are, and how many of them were there before."""
        total, seen = 0, set[int]()
        for piece in pieces:
            for start in range(WINDOW):
                count = (len(piece) - start) // WINDOW
                seen.update(struct.unpack_from(f"<{count}Q", piece, start))
                total += count
        return total, total - len(seen)

    def test_no_two_guests_draw_the_same(self, home: Home, said: list[str]) -> None:
        with fleet_of(home, said, "debian12") as fleet:
            pieces = []
            for _ in range(GUESTS):
                guest = fleet.start(ForegroundRequest(GuestSpec()))
                assert is_warm(guest)
                pieces += self.draw(guest)
        total, repeated = self.count_repeated(pieces)
        LOG.info(f"{total} windows of {WINDOW} bytes, {repeated} of them repeated")
        assert total > GUESTS * DRAWN * 3 - 100 * WINDOW
        assert repeated == 0
        # What has been drawn twice would be found, wherever it stands.
        assert self.count_repeated([*pieces, b"odd" + pieces[0][1001:1009]])[1] == 1


@pytest.mark.parametrize("image", ["tiny", pytest.param("debian12", marks=pytest.mark.thorough)])
def test_each_is_a_machine_of_its_own(home: Home, said: list[str], image: str) -> None:
    with fleet_of(home, said, image) as fleet:
        guests = [fleet.start(ForegroundRequest(GuestSpec())) for _ in range(3)]
        for guest in guests:
            assert is_warm(guest)
            check_identity(guest)
            if image == "debian12":
                # The kernel knows no other address of the first card, so a network manager has seen no change of it.
                assert "permaddr" not in guest.run("ip link show eth0").stdout
                assert "permaddr" in guest.run("ip link show eth1").stdout
        for word in ("name", "uuid", "mac"):
            assert len({getattr(guest, word) for guest in guests}) == len(guests)


def test_the_clock_is_right(home: Home, said: list[str]) -> None:
    with fleet_of(home, said, "debian12") as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec()))
        assert is_warm(guest)
        # A running program answers within a millisecond or two; to start one takes far longer.
        code = "import sys, time\nfor _ in sys.stdin: print(time.time(), flush=True)"
        asked, answers, _ = guest.ssh.exec_command(f"python3 -c {shlex.quote(code)}")
        least, most = -1e9, 1e9
        for _ in range(100):
            before = time.time()
            asked.write("\n")
            inside = float(answers.readline())
            after = time.time()
            # It was asked at a moment between the two.
            least, most = max(least, inside - after), min(most, inside - before)
    LOG.info(f"the clock is between {least * 1000:.0f} ms and {most * 1000:.0f} ms ahead")
    assert -0.1 < least <= most < 0.1


@pytest.mark.thorough
def test_it_is_kept_over_a_reboot(home: Home, said: list[str]) -> None:
    with fleet_of(home, said, "debian12") as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec()))
        assert is_warm(guest)
        before = guest.name, guest.uuid, guest.mac
        guest.run("echo mine >/root/mine; sync")
        guest.reboot()
        check_identity(guest)
        assert (guest.name, guest.uuid, guest.mac) == before
        assert guest.run("cat /root/mine").stdout == "mine\n"
        guest.shutdown()
        assert "power" in guest.console.text.lower()


@pytest.mark.parametrize("image", ["tiny", pytest.param("debian12", marks=pytest.mark.thorough)])
def test_agent_leaves_nothing_on_the_disk(home: Home, said: list[str], image: str) -> None:
    """A file without a name that a program runs is on the disk until the journal cleans up after a power cut."""
    with fleet_of(home, said, image) as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec()))
        assert is_warm(guest)
        line = "for exe in /proc/[0-9]*/exe; do readlink $exe; done | grep ' (deleted)$'"
        found = [path.removesuffix(" (deleted)") for path in guest.run(line).stdout.splitlines()]
        assert len(found) == 1
        assert "/.xhyve-agent-" in found[0]
        folder = found[0].rpartition("/")[0]
        assert guest.run(f"stat -f -c %T {folder}").stdout == "tmpfs\n"


@pytest.mark.thorough
def test_it_is_kept_over_a_start(home: Home, said: list[str]) -> None:
    """On the image that boots in a fifth of the time; systemd reads what it read in the test before."""
    with fleet_of(home, said) as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec()))
        assert is_warm(guest)
        before = guest.name, guest.uuid, guest.mac
        guest.run("echo mine >/root/mine; sync")
        guest.shutdown()
        guest.start()
        assert not is_warm(guest)
        check_identity(guest)
        assert (guest.name, guest.uuid, guest.mac) == before
        assert guest.run("cat /root/mine").stdout == "mine\n"
