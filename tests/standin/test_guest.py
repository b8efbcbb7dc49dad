"""A whole guest: what it finds in its machine, how it is reached, and how it is switched off."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import paramiko
import pytest
from waiting import becomes

from pytest_xhyve.model.image import Image
from standin.bootpd import Record, read_records
from standin.commandline import Build
from standin.conftest import Run, Start, copy_disk
from standin.mac import Mac
from standin.running import BOOT_SECONDS, BRIDGES, Running
from standin.test_vmnet import MESSAGE, NO_KERNEL

UUID = "0fbb1f1a-1c0d-4bb0-8a21-2d7a6ac0e0b1"
DAY = 86400


@dataclass
class Guest:
    """A guest that we are logged in to."""

    running: Running
    folder: Path
    mac: str  # as the stand-in prints it
    ssh: paramiko.SSHClient
    started: float  # seconds since the epoch

    def run(self, command: str) -> str:
        _, out, err = self.ssh.exec_command(command)
        said: str = out.read().decode() + err.read().decode()
        return said.strip()

    @property
    def record(self) -> Record:
        """Its newest in the lease file."""
        return next(record for record in read_records(Path("/var/db/dhcpd_leases")) if self.owns(record))

    def owns(self, record: Record) -> bool:
        hardware = record.get("hw_address") or ""
        return hardware == "1," + ":".join(f"{int(octet, 16):x}" for octet in self.mac.split(":"))


def listens(address: str | None, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((address or "", port)) == 0


@pytest.fixture(scope="module")
def guest(
    tiny: Image,
    mac: Mac,
    read_only: Path,
    start_for_module: Start,
    run_once: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("guest")
    copy_disk(tiny, folder / "disk.img")
    (folder / "cd.iso").write_bytes(b"on the CD".ljust(4096, b"\0"))
    (folder / "hd.img").write_bytes(b"on the disk".ljust(1 << 20, b"\0"))
    printed = run_once("-M", "-U", UUID, "-s", "2,virtio-net", *NO_KERNEL)
    # fmt: off
    words: list[str | Path] = [
        "-U", UUID, "-A", "-u", "-c", "2", "-m", "256M", "-F", folder / "pid", *BRIDGES,
        "-s", "2:0,virtio-net", "-s", "4:0,virtio-blk," + str(folder / "disk.img"),
        "-s", "4:1,virtio-blk," + str(read_only), "-s", "5,virtio-rnd",
        "-s", "6,ahci-cd," + str(folder / "cd.iso"), "-s", "7,ahci-hd," + str(folder / "hd.img"),
        "-l", "com1,stdio", "-f", f"kexec,{tiny.kernel},{tiny.initrd},{tiny.cmdline} word=a,b",
    ]
    # fmt: on
    started = time.time()
    running = start_for_module(*words)
    with paramiko.SSHClient() as ssh:
        guest = Guest(running, folder, printed.removeprefix("MAC: ").strip(), ssh, started)
        assert becomes(lambda: any(map(guest.owns, read_records(mac.leases))), BOOT_SECONDS), running.console.text
        address = guest.record.get("ip_address")
        assert address is not None
        # The address is known before anybody listens there.
        assert becomes(lambda: listens(address, 22), BOOT_SECONDS), running.console.text
        ssh.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        ssh.connect(address, username=tiny.user, key_filename=str(tiny.key), banner_timeout=60, allow_agent=False)
        yield guest


@pytest.fixture(scope="module")
def read_only(mac: Mac, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk that not even root can write, as its file system is mounted so."""
    folder = tmp_path_factory.mktemp("read-only")
    disk = folder / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
    yield disk
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def run_once(programs: dict[Build, Path]) -> Callable[..., str]:
    def run(*words: str) -> str:
        argv = [str(programs["head"]), *words]
        return subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout

    return run


def test_lease_is_recorded(guest: Guest, mac: Mac) -> None:
    """As bootpd does it, key by key, and with octets that are not padded."""
    octets = ":".join(f"{int(octet, 16):x}" for octet in guest.mac.split(":"))
    assert len(octets) < len(guest.mac)
    match = re.search(
        r"\{\n\tname=tiny\n\tip_address=(192\.168\.64\.\d+)\n"
        rf"\thw_address=1,{octets}\n\tidentifier=1,{octets}\n\tlease=0x([0-9a-f]+)\n\}}\n",
        mac.leases.read_text(),
    )
    assert match is not None, mac.leases.read_text()
    assert guest.started + DAY - 1 <= int(match[2], 16) <= time.time() + DAY
    assert mac.leases.stat().st_mode & 0o777 == 0o644
    assert not mac.leases.with_name("dhcpd_leases-").exists()


def test_address_is_the_guests(guest: Guest) -> None:
    assert guest.run("cat /sys/class/net/eth0/address") == guest.mac
    assert f"inet {guest.record.get('ip_address')}/24 " in guest.run("ip -4 address show dev eth0")
    assert "default via 192.168.64.1" in guest.run("ip route")
    assert guest.run("ping -c 1 -W 5 192.168.64.1 >/dev/null && echo well") == "well"


def test_machine_is_the_command_lines(guest: Guest, tiny: Image) -> None:
    assert guest.run("nproc") == "2"
    assert guest.run("cat /sys/class/dmi/id/product_uuid").lower() == UUID
    assert 200 < int(guest.run("grep MemTotal /proc/meminfo").split()[1]) / 1024 < 256
    assert guest.run("cat /proc/cmdline") == f"{tiny.cmdline} word=a,b"


def test_devices_are_in_their_slots(guest: Guest) -> None:
    """With bhyve's devices' identifiers: virtio as it was before it had a version."""
    found = dict(
        re.findall(
            r"^(\S+) (0x\w+:0x\w+)$",
            guest.run(
                'cd /sys/bus/pci/devices && for d in *; do echo "${d#0000:} $(cat $d/vendor):$(cat $d/device)"; done'
            ),
            re.MULTILINE,
        )
    )
    virtio = {slot: found[slot] for slot in found if found[slot].startswith("0x1af4:")}
    assert virtio == {
        "00:02.0": "0x1af4:0x1000",
        "00:04.0": "0x1af4:0x1001",
        "00:04.1": "0x1af4:0x1001",
        "00:05.0": "0x1af4:0x1005",
    }
    assert {"00:00.0", "00:1f.0", "00:06.0", "00:07.0"} < set(found)


def test_disks(guest: Guest) -> None:
    """The serial number is that of the words of the command line."""
    config = f"{guest.folder}/disk.img"
    digits = sha256(config.encode()).hexdigest().upper()
    assert guest.run("cat /sys/block/vda/serial") == f"BHYVE-{digits[:4]}-{digits[4:8]}-{digits[8:12]}"
    size = Path(config).stat().st_size
    assert int(guest.run("cat /sys/block/vda/size")) == size // 512
    guest.run("echo written > /root/file && sync")
    guest.run("modprobe ahci; modprobe sd_mod; modprobe sr_mod")


def test_disk_that_cannot_be_written_says_so_late(guest: Guest, read_only: Path) -> None:
    """It calls itself writable; what is written to it fails."""
    assert guest.run("cat /sys/block/vdb/ro") == "0"
    assert guest.run("head -c 512 /dev/vdb | wc -c") == "512"
    assert "error" in guest.run("dd if=/dev/zero of=/dev/vdb bs=4096 count=1 conv=fsync").lower()
    assert guest.run("dmesg | grep -c 'I/O error, dev vdb.*WRITE'") != "0"
    assert read_only.read_bytes() == bytes(1 << 20)


def test_pidfile_has_no_newline(guest: Guest) -> None:
    assert (guest.folder / "pid").read_bytes() == str(guest.running.process.pid).encode()


def test_second_guest_with_its_uuid_is_refused(guest: Guest, run: Run, behave: Callable[..., None]) -> None:
    behave()
    done = run("-M", "-U", UUID, "-s", "2,virtio-net", *NO_KERNEL)
    assert (done.returncode, done.stderr) == (1, MESSAGE)


def test_power_button_powers_off(guest: Guest) -> None:
    """The last of this guest. What it had synced is on its disk."""
    guest.ssh.close()
    guest.running.signal(signal.SIGTERM)
    guest.running.signal(signal.SIGTERM)
    assert guest.running.wait() == 1
    assert "Power down" in guest.running.console.text
    assert not (guest.folder / "pid").exists()
    assert guest.running.stdout == ""
    assert not listens(guest.record.get("ip_address"), 22)
