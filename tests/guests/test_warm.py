"""Guests that are restored from a template: each is its own machine, and no template makes a run fail.

Under QEMU only: xhyve saves no machine. All share one home, so that there is one template for each image.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from homes import share
from listening import Recorder
from waiting import becomes

from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.guardian_process import PIDFILE
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.hypervisors.qemu.driver import PROGRAM
from pytest_xhyve.images.build import build_image
from pytest_xhyve.model.choices import StartMode
from pytest_xhyve.model.errors import TemplateError
from pytest_xhyve.model.machine import Disk, Machine
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.templates import cache
from pytest_xhyve.templates import identity as renewal
from pytest_xhyve.templates.store import ABOUT, Template, TemplateStore

# What was measured; --log-cli-level=INFO shows it.
LOG = logging.getLogger(__name__)

GUESTS = 4
DRAWN = 32 << 10
WINDOW = 8
GETPID = 39

needs_mounts = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A folder of the plugin's for all tests here, with templates of its own."""
    for name in ("tiny", "debian12"):
        build_image(name, Home.of_user(), LOG.info)
    folder = tmp_path_factory.mktemp("warm")
    home = share(Home.of_user(), folder / "home")
    _use_templates(home, folder / "templates")
    return home


@pytest.fixture
def other_home(home: Home, tmp_path: Path) -> Iterator[Home]:
    """The same, with no templates, for a test that does them harm; what is known of the images stays."""
    before = home.folder("templates").resolve()
    _use_templates(home, tmp_path / "templates")
    yield home
    _use_templates(home, before)


def _use_templates(home: Home, folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    link = home.path / "templates"
    link.unlink(missing_ok=True)
    link.symlink_to(folder)


@pytest.fixture
def said() -> list[str]:
    """What the fleets of a test reported."""
    return []


@contextmanager
def fleet_of(
    home: Home, said: list[str], image: str = "tiny", start: StartMode = "warm", executable: Path | None = None
) -> Iterator[Fleet]:
    settings = Settings(
        hypervisor="qemu",
        start=start,
        images=(image,),
        executable=None if executable is None else str(executable),
    )
    with closing(Fleet(settings, home, Recorder(said))) as fleet:
        yield fleet


def is_warm(guest: Guest) -> bool:
    return "restore" in guest.phases


def templates(home: Home) -> list[Template]:
    return TemplateStore(home.folder("templates"), home.folder("checked")).all()


def boots_cold(said: list[str]) -> str:
    """Why, as the one line says that has to."""
    (line,) = [line for line in said if "so they boot" in line]
    assert "\n" not in line
    return line


def own_folder(guest: Guest) -> Path:
    return guest.console.path.parent


def allocated(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def own_memory(guest: Guest) -> int:
    """What the guest costs the host: memory shared with others counts by its share (proc(5))."""
    pid = int((own_folder(guest) / PIDFILE).read_text())
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Pss:"))) << 10


def processes_of(home: Home) -> list[psutil.Process]:
    """All that name the folder and are not ours; the dead do not count."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.pid != os.getpid()
        and process.info["status"] != psutil.STATUS_ZOMBIE
        and any(str(home.path) in word for word in process.info["cmdline"] or [])
    ]


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
        # Read by the shell itself: a process for each would take half a minute.
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


class TestIdentity:
    @staticmethod
    def check(guest: Guest) -> None:
        assert guest.run("hostname").stdout.strip() == guest.name
        assert guest.run("cat /sys/class/dmi/id/product_uuid").stdout.strip() == guest.uuid
        table = base64.b64decode(guest.run("base64 /sys/firmware/dmi/tables/DMI").stdout)
        assert UUID(guest.uuid).bytes_le in table
        assert guest.run("cat /sys/class/net/eth0/address").stdout.strip() == guest.mac
        if guest.image.name == "debian12":
            assert guest.run("cat /etc/machine-id").stdout.strip() == UUID(guest.uuid).hex

    @pytest.mark.parametrize("image", ["tiny", "debian12"])
    def test_each_is_a_machine_of_its_own(self, home: Home, said: list[str], image: str) -> None:
        with fleet_of(home, said, image) as fleet:
            guests = [fleet.start(ForegroundRequest(GuestSpec())) for _ in range(3)]
            for guest in guests:
                assert is_warm(guest)
                self.check(guest)
            for word in ("name", "uuid", "mac"):
                assert len({getattr(guest, word) for guest in guests}) == len(guests)

    def test_the_clock_is_right(self, home: Home, said: list[str]) -> None:
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

    def test_it_is_kept_over_a_restart(self, home: Home, said: list[str]) -> None:
        with fleet_of(home, said, "debian12") as fleet:
            guest = fleet.start(ForegroundRequest(GuestSpec()))
            assert is_warm(guest)
            before = guest.name, guest.uuid, guest.mac
            guest.run("echo mine >/root/mine; sync")
            guest.reboot()
            self.check(guest)
            guest.kill()
            guest.start()
            assert not is_warm(guest)
            self.check(guest)
            assert (guest.name, guest.uuid, guest.mac) == before
            assert guest.run("cat /root/mine").stdout == "mine\n"


class TestSharing:
    def test_what_one_writes_is_seen_in_no_other(self, home: Home, said: list[str]) -> None:
        with fleet_of(home, said) as fleet:
            first, second = fleet.start(ForegroundRequest(GuestSpec())), fleet.start(ForegroundRequest(GuestSpec()))
            folder = templates(home)[0].folder
            hashes = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()}
            # Far more than any cache has: into memory, and onto the disk.
            first.run("dd if=/dev/urandom of=/dev/shm/mine bs=1M count=40 2>/dev/null || mkdir -p /dev/shm")
            first.run("dd if=/dev/urandom of=/root/mine bs=1M count=40 2>/dev/null; echo mine >/etc/mine; sync")
            third = fleet.start(ForegroundRequest(GuestSpec()))
            for other in (second, third):
                other.run("echo 3 >/proc/sys/vm/drop_caches")
                assert other.run("ls /dev/shm/mine /root/mine /etc/mine", check=False).stdout == ""
            second.run("echo other >/etc/mine; sync")
            assert first.run("cat /etc/mine").stdout == "mine\n"
        assert hashes == {path.name: hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()}

    def test_further_guests_cost_little(self, home: Home, said: list[str]) -> None:
        with fleet_of(home, said) as fleet:
            guests = [fleet.start(ForegroundRequest(GuestSpec())) for _ in range(4)]
            taken = [allocated(own_folder(guest)) for guest in guests]
            LOG.info("tiny: KiB of disk: %s", [size >> 10 for size in taken])
            LOG.info("tiny: MiB of memory (PSS): %s", [own_memory(guest) >> 20 for guest in guests])
        assert max(taken) <= 1 << 20


DAMAGES: dict[str, Callable[[Path], object]] = {
    "ram": lambda path: os.truncate(path, path.stat().st_size - 4096),
    "disk.qcow2": lambda path: path.unlink(),
    ABOUT: lambda path: os.truncate(path, path.stat().st_size // 2),
}


@pytest.fixture(scope="module")
def template(home: Home) -> Path:
    """The folder of a good template of tiny."""
    with fleet_of(home, []) as fleet:
        fleet.start(ForegroundRequest(GuestSpec()))
    return next(template.folder.resolve() for template in templates(home) if template.image == "tiny")


class TestTrouble:
    """A template that is no good costs time, never a run."""

    @pytest.mark.parametrize("name", list(DAMAGES))
    def test_a_damaged_one_is_made_anew(self, template: Path, other_home: Home, said: list[str], name: str) -> None:
        copied = other_home.folder("templates") / template.name
        shutil.copytree(template, copied)
        DAMAGES[name](copied / name)
        with fleet_of(other_home, said, start="auto") as fleet:
            guest = fleet.start(ForegroundRequest(GuestSpec()))
            assert is_warm(guest)
            guest.run("true")
        (line,) = [line for line in said if "is made anew" in line]
        assert name in line
        assert len(templates(other_home)) == 1

    @pytest.fixture
    def forged(self, template: Path, other_home: Home) -> Template:
        """A template that is as it was saved, but was saved badly."""
        store = TemplateStore(other_home.folder("templates"), other_home.folder("checked"))
        key = template.name.split(".")[0]
        with store.workspace(key) as workspace:
            for path in template.iterdir():
                if path.name != ABOUT:
                    subprocess.run(["cp", "--sparse=always", str(path), str(workspace)], check=True)
            state = (workspace / "state").read_bytes()
            (workspace / "state").write_bytes(state[:5000] + os.urandom(len(state) - 5000))
            (good,) = [
                one for one in TemplateStore(template.parent, other_home.folder("checked")).all() if one.key == key
            ]
            store.publish(workspace, key, "tiny", Disk(workspace / "disk.qcow2", "qcow2"), good.agent)
        (made,) = store.all()
        return made

    @pytest.mark.usefixtures("forged")
    def test_one_that_cannot_be_restored_is_set_aside(self, other_home: Home, said: list[str]) -> None:
        with fleet_of(other_home, said, start="auto") as fleet:
            first = fleet.start(ForegroundRequest(GuestSpec()))
            assert not is_warm(first)
            assert first.run("hostname").stdout.strip() == first.name
            assert "no guest can be restored" in boots_cold(said)
            assert templates(other_home) == []
            assert is_warm(fleet.start(ForegroundRequest(GuestSpec())))

    @pytest.mark.usefixtures("forged")
    def test_where_warm_was_asked_for_it_is_an_error(self, other_home: Home, said: list[str]) -> None:
        with fleet_of(other_home, said) as fleet, pytest.raises(TemplateError, match="no guest can be restored"):
            fleet.start(ForegroundRequest(GuestSpec()))

    def test_one_of_another_qemu_is_not_used(self, home: Home, said: list[str], tmp_path: Path) -> None:
        with fleet_of(home, said) as fleet:
            fleet.start(ForegroundRequest(GuestSpec()))
        before = {template.key for template in templates(home)}
        wrapper = tmp_path / "qemu"
        wrapper.write_text(
            '#!/bin/sh\n[ "$1" = --version ] && { echo "QEMU emulator version 99.0.0"; exit; }\n'
            f'exec {shutil.which(PROGRAM)} "$@"\n'
        )
        wrapper.chmod(0o700)
        with fleet_of(home, said, executable=wrapper) as fleet:
            assert is_warm(fleet.start(ForegroundRequest(GuestSpec())))
        assert len({template.key for template in templates(home)} - before) == 1

    @pytest.mark.parametrize("stage", ["ram", "state"])
    def test_a_killed_maker_leaves_nothing_that_is_used(self, other_home: Home, said: list[str], stage: str) -> None:
        code = (
            "from pytest_xhyve.fleet.fleet import Fleet\n"
            "from pytest_xhyve.fleet.request import ForegroundRequest\n"
            "from pytest_xhyve.host.home import Home\n"
            "from pytest_xhyve.model.settings import Settings\n"
            "from pytest_xhyve.model.spec import GuestSpec\n"
            "settings = Settings(hypervisor='qemu', start='warm', images=('tiny',))\n"
            "Fleet(settings, Home.of_user()).start(ForegroundRequest(GuestSpec()))\n"
        )
        maker = subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {HOME_VARIABLE: str(other_home.path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            folder = other_home.folder("templates")
            assert becomes(lambda: any(folder.glob(f".*/{stage}")), 60)
        finally:
            os.kill(maker.pid, signal.SIGKILL)
            maker.wait()
        assert becomes(lambda: not processes_of(other_home), 10), processes_of(other_home)
        assert templates(other_home) == []
        (left,) = folder.glob(".*")
        with fleet_of(other_home, said) as fleet:
            assert is_warm(fleet.start(ForegroundRequest(GuestSpec())))
            assert not left.exists()

    @contextmanager
    def _small_disk(self, home: Home, size: str) -> Iterator[None]:
        folder = home.folder("templates")
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", str(folder)], check=True)

    @needs_mounts
    def test_a_full_disk_is_seen_up_front(self, other_home: Home, said: list[str]) -> None:
        with self._small_disk(other_home, "64m"), fleet_of(other_home, said, start="auto") as fleet:
            assert not is_warm(fleet.start(ForegroundRequest(GuestSpec())))
            assert "64 MiB are free" in boots_cold(said)

    @needs_mounts
    def test_a_disk_that_becomes_full_is_told(
        self, other_home: Home, said: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The check up front thinks that there is room.
        monkeypatch.setattr(cache, "_ROOM", -(1 << 40))
        with self._small_disk(other_home, "48m"), fleet_of(other_home, said, start="auto") as fleet:
            assert not is_warm(fleet.start(ForegroundRequest(GuestSpec())))
            assert "is full" in boots_cold(said)
            assert list(other_home.folder("templates").glob(".*")) == []

    def test_a_guest_without_the_serial_port_boots(
        self, other_home: Home, said: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Of the four that the kernel has names for, two have hardware.
        monkeypatch.setattr(renewal, "_INSTALL", renewal._INSTALL.replace(renewal.AGENT_PORT, "/dev/ttyS3"))
        with fleet_of(other_home, said, start="auto") as fleet:
            for _ in range(2):
                guest = fleet.start(ForegroundRequest(GuestSpec()))
                assert not is_warm(guest)
                guest.run("true")
            assert "no serial port /dev/ttyS3" in boots_cold(said)

    def test_a_guest_in_which_nobody_becomes_root_boots(
        self, other_home: Home, said: list[str], tmp_path: Path
    ) -> None:
        with fleet_of(other_home, said, start="cold") as fleet:
            guest = fleet.start(ForegroundRequest(GuestSpec()))
            guest.run(
                "echo 'joe:x:1234:1234::/home/joe:/bin/sh' >>/etc/passwd; echo 'joe:x:1234:' >>/etc/group;"
                "echo 'joe:*:19000:0:99999:7:::' >>/etc/shadow; mkdir -p /home/joe/.ssh;"
                "cp /root/.ssh/authorized_keys /home/joe/.ssh/; chmod -R go= /home/joe; chown -R 1234:1234 /home/joe"
            )
            guest.shutdown()
            (disk,) = guest.machine.disks
            subprocess.run(
                ["qemu-img", "convert", "-f", disk.format, "-O", "qcow2", str(disk.path), str(tmp_path / "joe.qcow2")],
                check=True,
            )
            of = guest.image
        manifest = tmp_path / "joe.yaml"
        manifest.write_text(
            f"disk: joe.qcow2\nformat: qcow2\nkernel: {of.kernel}\ninitrd: {of.initrd}\ncmdline: {of.cmdline}\n"
            f"user: joe\nkey: {of.key}\nmemory: 256M\nhost_keys: ['{of.host_keys[0]}']\n"
        )
        with fleet_of(other_home, said, str(manifest), start="auto") as fleet:
            guest = fleet.start(ForegroundRequest(GuestSpec()))
            assert not is_warm(guest)
            assert guest.run("id -un").stdout == "joe\n"
            assert "no template of joe can be made: the guest does not take our agent" in boots_cold(said)


class TestHook:
    def test_one_that_adds_a_disk_has_the_guest_boot(self, home: Home, said: list[str], tmp_path: Path) -> None:
        def change(machine: Machine) -> Machine:
            with (tmp_path / "more.raw").open("wb") as file:
                file.truncate(1 << 20)
            return replace(machine, disks=(*machine.disks, Disk(tmp_path / "more.raw")))

        with fleet_of(home, said, start="auto") as fleet:
            guest = fleet.start(ForegroundRequest(GuestSpec(), hook=change))
            assert not is_warm(guest)
            assert guest.run("cat /sys/block/vdb/size").stdout == "2048\n"
            assert "pytest_xhyve_machine changes their disks" in boots_cold(said)

    def test_one_that_writes_to_the_disk_has_the_guest_boot(self, home: Home, said: list[str]) -> None:
        def change(machine: Machine) -> Machine:
            path = machine.disks[0].path
            path.write_bytes(path.read_bytes())
            return machine

        with fleet_of(home, said, start="auto") as fleet:
            assert not is_warm(fleet.start(ForegroundRequest(GuestSpec(), hook=change)))
            assert "changes their disks" in boots_cold(said)

    def test_one_that_changes_memory_gets_a_template_for_it(self, home: Home, said: list[str]) -> None:
        # So much that a part of it lies behind the hole for devices.
        def change(machine: Machine) -> Machine:
            return replace(machine, memory=3 << 30)

        with fleet_of(home, said) as fleet:
            guest = fleet.start(ForegroundRequest(GuestSpec(), hook=change))
            assert is_warm(guest)
            assert int(guest.run("awk '/MemTotal/ {print $2}' /proc/meminfo").stdout) > 2800 << 10
            TestIdentity.check(guest)
