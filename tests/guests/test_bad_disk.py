"""Disks that no guest can be made of: one clear error each, and nothing of them is left.

What can be seen without a guest is in tests/unit/preparation and tests/unit/plugin/test_preflight.py.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from foreign import PATH, copy_disk, debugfs, make_foreign_disk, read_bytes, replace_file
from homes import share
from mounting import mounted
from warm import fleet_of

from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.digests import digest_of
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.model.errors import ImageError, XhyveError
from pytest_xhyve.model.spec import GuestSpec

_JOURNAL_INODE = "<8>"
_BLOCK = 4096
_AARCH64, _ARM = 183, 40


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return share(Home.of_user(), tmp_path_factory.mktemp("bad") / "home")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_foreign_disk(tmp_path_factory.mktemp("disk") / "good.img")


def make_windows(disk: Path) -> None:
    """The beginning of NTFS, as far as libblkid's probe of it reads."""
    content = bytearray(1 << 20)
    content[:11] = b"\xeb\x52\x90NTFS    "
    struct.pack_into("<HB", content, 11, 512, _BLOCK // 512)
    # The sectors, the clusters of the file table and its copy, the sizes of their records, the serial number.
    struct.pack_into("<QQQb3xb3xQ", content, 40, len(content) // 512 - 1, 4, 8, -10, 1, 0x1234)
    content[510:512] = b"\x55\xaa"
    for record in (0, 3):
        at = 4 * _BLOCK + record * 1024
        content[at : at + 4] = b"FILE"
        struct.pack_into("<H34xI", content, at + 20, 56, 0xFFFFFFFF)
    disk.write_bytes(content)


def make_encrypted(disk: Path) -> None:
    """The header of LUKS, version 1."""
    header = b"LUKS\xba\xbe\0\1" + b"aes".ljust(160, b"\0") + b"11111111-2222-3333-4444-555555555555"
    disk.write_bytes(header.ljust(4 << 20, b"\0"))


def make_empty(disk: Path) -> None:
    """A file system without a system."""
    disk.unlink()
    subprocess.run(["mke2fs", "-q", "-t", "ext4", disk, "16M"], check=True, capture_output=True, env=PATH)


def replace_machine(disk: Path, machine: int) -> None:
    program = bytearray(read_bytes(disk, "/usr/bin/busybox"))
    # e_machine in ELF's header
    struct.pack_into("<H", program, 18, machine)
    replace_file(disk, "/usr/bin/busybox", bytes(program), 0o755)


def make_other_architecture(disk: Path) -> None:
    replace_machine(disk, _AARCH64)


def make_unknown_architecture(disk: Path) -> None:
    replace_machine(disk, _ARM)


def damage_journal(disk: Path) -> None:
    """The journal of a machine whose power was cut, with a damaged beginning."""
    block = int(debugfs(disk, f"bmap {_JOURNAL_INODE} 0").split()[-1])
    debugfs(disk, "feature needs_recovery")
    with disk.open("r+b") as file:
        file.seek(block * _BLOCK)
        file.write(b"\xff" * _BLOCK)


def free_blocks(disk: Path) -> int:
    return int(debugfs(disk, "stats -h").partition("Free blocks:")[2].split()[0])


def fill(disk: Path) -> None:
    """Give all blocks to files: to one that asks for a little more than there are, and to small ones."""
    commands = ["write /dev/null /filler", f"fallocate /filler 0 {free_blocks(disk) - 100}"]
    commands += [f"write {__file__} /filler{number}" for number in range(100)]
    debugfs(disk, *commands)
    assert free_blocks(disk) == 0


def make_read_only(disk: Path) -> None:
    debugfs(disk, "feature read-only")


@dataclass(frozen=True)
class Bad:
    """One kind of bad disk.

    Attributes:
        change: makes it, of a copy of a good disk.
        words: what the message must have, in this order.
    """

    change: Callable[[Path], None]
    words: tuple[str, ...]


KINDS = {
    "Windows": Bad(make_windows, ("the whole disk has a file system of Windows (NTFS)", "the plugin runs Linux only")),
    "encrypted": Bad(make_encrypted, ("the whole disk is encrypted (LUKS)", "decrypt the disk")),
    "no system": Bad(
        make_empty, ("has no Linux system that could be read", "the whole disk: ext4", "name the disk that the machine")
    ),
    "kernel for another architecture": Bad(
        make_other_architecture, ("the kernel on ", "is a Linux kernel for x86_64", "but guests are aarch64")
    ),
    "damaged journal": Bad(
        damage_journal,
        ("has no Linux system that could be read", "the whole disk: cannot mount it: ", "journal", "fsck"),
    ),
    "full": Bad(
        fill,
        ("cannot write /etc/", "No space left on device", "free some space on the disk"),
    ),
    "read-only": Bad(make_read_only, ("cannot write /etc/", "Read-only file system")),
}
# Each costs a helper guest; this one gets furthest.
SHOWN = ("full",)


def check_words(said: str, words: tuple[str, ...]) -> None:
    """See that a message has *words*, in this order."""
    at = 0
    for word in words:
        at = said.find(word, at)
        assert at >= 0, (word, said)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(KINDS[name], marks=() if name in SHOWN else pytest.mark.thorough, id=name) for name in KINDS],
)
def test_states_why_and_leaves_nothing(kind: Bad, home: Home, good: Path, tmp_path: Path) -> None:
    disk = copy_disk(good, tmp_path / "bad.img")
    kind.change(disk)
    before = digest_of(disk)
    prepared = home.folder("prepared")
    earlier = {path.name for path in prepared.iterdir() if not path.name.endswith(".lock")}
    with fleet_of(home, [], str(disk), start="cold") as fleet, pytest.raises(XhyveError) as raised:
        fleet.catalog.find(disk)
    said = str(raised.value)
    check_words(said, kind.words)
    assert "bad.img" in said
    assert len(said.splitlines()) < 10, said
    assert {path.name for path in prepared.iterdir() if not path.name.endswith(".lock")} == earlier
    assert not list(home.folder("runs").iterdir())
    assert digest_of(disk) == before


def lock_root_out(disk: Path) -> None:
    debugfs(disk, "rm /usr/sbin/dropbear", "write /dev/null /usr/sbin/sshd", "mkdir /etc/ssh")
    replace_file(disk, "/etc/ssh/sshd_config", b"Port 22\nPermitRootLogin no\n")


def remove_server(disk: Path) -> None:
    debugfs(disk, "rm /usr/sbin/dropbear")


def cut_qcow2_off(disk: Path) -> None:
    whole = disk.with_suffix(".raw")
    disk.rename(whole)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", whole, disk], check=True)
    os.truncate(disk, disk.stat().st_size // 2)


SEEN_BEFORE = {
    "cut off": Bad(cut_qcow2_off, ("bad.img is damaged or cut off: ", "copy the disk again")),
    "without a server": Bad(remove_server, ("bad.img: ", "has no SSH server", "install one")),
    "without a login": Bad(
        lock_root_out,
        ("bad.img: the SSH server", "let root log in by key: /etc/ssh/sshd_config, line 2", "change that"),
    ),
    "another architecture": Bad(make_unknown_architecture, ("bad.img has ", " for arm; guests are x86_64")),
}


@pytest.mark.parametrize("kind", SEEN_BEFORE.values(), ids=SEEN_BEFORE)
def test_seen_before_any_test(kind: Bad, home: Home, good: Path, pytester: pytest.Pytester) -> None:
    """Without a guest: one error, and not one for each test."""
    disk = copy_disk(good, pytester.path / "bad.img")
    kind.change(disk)
    before = digest_of(disk)
    pytester.makepyfile("def test_plain(): pass\ndef test_guest(xhyve_guest): pass\ndef test_other(xhyve_guest): pass")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(HOME_VARIABLE, str(home.path))
        result = pytester.runpytest_subprocess(f"--xhyve-image={disk}", "--xhyve-hypervisor=qemu")
    assert result.ret == pytest.ExitCode.USAGE_ERROR, result.stdout.str()
    said = result.stderr.str()
    assert said.startswith("ERROR: ")
    assert said.count("bad.img") == 1
    check_words(said, kind.words)
    assert "passed" not in result.stdout.str()
    assert not list(home.folder("runs").iterdir())
    assert digest_of(disk) == before


@pytest.mark.thorough
def test_disk_that_cannot_be_prepared_is_tried_once(home: Home, good: Path, tmp_path: Path) -> None:
    disk = copy_disk(good, tmp_path / "bad.img")
    fill(disk)
    said: list[str] = []
    with fleet_of(home, said, str(disk), start="cold") as fleet:
        for message in (
            r"bad\.img: cannot write /etc/",
            r"^bad\.img could not be prepared for an earlier test: .*cannot",
        ):
            with pytest.raises(ImageError, match=message):
                fleet.start(ForegroundRequest(GuestSpec()))
    assert len([line for line in said if line.startswith("preparing ")]) == 1


@pytest.mark.thorough
def test_machine_whose_power_was_cut(home: Home, good: Path, tmp_path: Path) -> None:
    """Its journal is replayed in the layer: the disk, which is on a file system that is read-only, stays as it was."""
    with mounted(tmp_path / "mount", "size=256m") as folder:
        disk = copy_disk(good, folder / "dirty.img")
        debugfs(disk, "feature needs_recovery")
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        before = digest_of(disk)
        said: list[str] = []
        with fleet_of(home, said, str(disk), start="cold") as fleet:
            guest = fleet.start(ForegroundRequest(GuestSpec()))
            assert guest.run("id -un").stdout == "root\n"
        assert [line for line in said if "the file system of the whole disk was not unmounted cleanly" in line]
        assert digest_of(disk) == before


@pytest.mark.thorough
def test_no_room_for_the_layer(good: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "mount", "size=2m") as folder:
        home = share(Home.of_user(), folder / "home")
        with fleet_of(home, [], str(good), start="cold") as fleet, pytest.raises(XhyveError) as raised:
            fleet.catalog.find(good)
        assert "no space" in str(raised.value).lower()
        assert not list(home.folder("prepared").glob(".*"))


@pytest.mark.parametrize(
    ("shortened", "message"), [("qcow2", "is damaged or cut off: "), ("raw", "is cut off: its partitions end at byte")]
)
def test_disk_that_is_cut_off(good: Path, home: Home, tmp_path: Path, shortened: str, message: str) -> None:
    disk = tmp_path / f"short.{shortened}"
    if shortened == "qcow2":
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", good, disk], check=True)
    else:
        disk.write_bytes(bytes(4 << 20))
        subprocess.run(["sfdisk", "-q", disk], input=b"start=2048\n", check=True, capture_output=True, env=PATH)
    with disk.open("r+b") as file:
        file.truncate(disk.stat().st_size // 2)
    with fleet_of(home, [], str(disk), start="cold") as fleet, pytest.raises(XhyveError, match=message):
        fleet.catalog.find(disk)
    assert not list(home.folder("prepared").glob(".*"))
