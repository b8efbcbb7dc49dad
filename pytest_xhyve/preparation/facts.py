"""What was found on a disk."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_xhyve.model.architecture import ARCHITECTURES
from pytest_xhyve.model.text import is_number, printable

DISK = "/dev/vdb"
"""The name of the disk in the helper guest."""

# Those that have no guests are named in a message only.
_MACHINES = {3: "i686", 40: "arm", 243: "riscv64", 21: "ppc64le", 22: "s390x"} | {
    each.elf_machine: each.name for each in ARCHITECTURES.values()
}


@dataclass(frozen=True, slots=True)
class Volume:
    """A partition, a logical volume, or a whole disk without partitions.

    Attributes:
        device: its name in the helper guest, such as ``/dev/vdb1``.
        type: its content, as blkid(8) names it; empty if that is not known.
    """

    device: str
    type: str

    def __str__(self) -> str:
        """For messages."""
        return f"{describe_device(self.device)}: {self.type or 'unknown'}"


@dataclass(frozen=True, slots=True)
class Root:
    """A file system that a system was found on.

    Attributes:
        device: its name in the helper guest.
        type: the file system.
        subvolume: of btrfs, the subvolume with the system; empty for the default one.
    """

    device: str
    type: str
    subvolume: str

    def __str__(self) -> str:
        """For messages."""
        return f"{describe_device(self.device)} ({', '.join(filter(None, (self.type, self.subvolume)))})"


@dataclass(frozen=True, slots=True)
class User:
    """A user who may log in: root, or a person.

    Attributes:
        name: the user's name.
        uid: the number.
        password: ``set``, ``none`` (nothing is asked for) or ``locked``.
        shell: the login shell.
    """

    name: str
    uid: int
    password: str
    shell: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found on a disk; all of it comes from the disk, and none of it is trusted.

    Attributes:
        volumes: all volumes.
        roots: the systems that were found; the rest is known if it is exactly one.
        problems: what could not be read or mounted, for people.
        values: the values of each other key that the helper guest has printed.
        files: small files of the system by their path, without the first slash.
        examined_by: what has read the disk.
    """

    volumes: tuple[Volume, ...]
    roots: tuple[Root, ...]
    problems: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    examined_by: str = "helper guest"

    @classmethod
    def parse(cls, lines: str) -> Facts:
        """Facts from the lines ``key<TAB>value`` of the helper guest."""
        values: dict[str, list[str]] = {}
        for line in lines.splitlines():
            key, tab, value = line.partition("\t")
            if tab:
                values.setdefault(key, []).append(value)
        volumes = tuple(Volume(*_split(value, 2)) for value in values.pop("volume", []))
        roots = tuple(Root(*_split(value, 3)) for value in values.pop("root", []))
        problems = tuple(printable(_name_device(problem)) for problem in values.pop("problem", []))
        return cls(volumes, roots, problems, {key: tuple(found) for key, found in values.items()})

    def first(self, key: str) -> str:
        """The first value of *key*, or an empty text."""
        return self.values.get(key, ("",))[0]

    def text(self, path: str) -> str:
        """The text of the file at *path*, or an empty text."""
        return self.files.get(path, b"").decode("utf-8", "replace")

    def has(self, *paths: str) -> bool:
        """Whether one of *paths* is on the disk; only paths that look.sh looks for are known."""
        return any(path in self.values.get("there", ()) for path in paths)

    @property
    def architecture(self) -> str:
        """The architecture of the programs, as ``uname -m`` prints it (ELF's e_machine, gABI chapter 4)."""
        if self.first("elf") != "ELF":
            return ""
        number = self.first("architecture")
        return _MACHINES.get(int(number), f"ELF machine {number}") if is_number(number) else ""

    @property
    def os_release(self) -> dict[str, str]:
        """The keys of os-release(5)."""
        text = self.text("etc/os-release") or self.text("usr/lib/os-release")
        found = re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE)
        return {key: value.strip().strip("\"'") for key, value in found}

    @property
    def system(self) -> str:
        """The name of the system, for people."""
        release = self.os_release
        return printable(release.get("PRETTY_NAME") or release.get("NAME") or "an unknown Linux")

    @property
    def partition_table(self) -> str:
        """``gpt``, ``dos`` (an MBR) or an empty text, as blkid(8) names it."""
        return self.first("table")

    def size_of(self, volume: Volume) -> int | None:
        """The size of *volume* in bytes, or None if it is not known."""
        for value in self.values.get("size", ()):
            device, size = _split(value, 2)
            if device == volume.device and is_number(size):
                return int(size)
        return None

    @property
    def firmware(self) -> tuple[str, ...]:
        """The firmware that the disk's own boot loader is for: ``bios``, ``uefi``, both or neither."""
        has_code = self.first("boot_code") not in ("", "0000")
        bios = ("bios",) if self.partition_table and has_code else ()
        return (*bios, *(("uefi",) if self.values.get("efi") else ()))

    @property
    def users(self) -> tuple[User, ...]:
        """Root, and the users with a number from 1000 on."""
        found = []
        for value in self.values.get("user", ()):
            name, uid, password, shell = _split(value, 4)
            if is_number(uid):
                found.append(User(name, int(uid), password, shell))
        return tuple(found)

    @property
    def dirty(self) -> tuple[str, ...]:
        """The names of the volumes that were not unmounted cleanly, for people; known of ext4 only."""
        return tuple(describe_device(printable(device)) for device in self.values.get("dirty", ()))

    @property
    def has_systemd(self) -> bool:
        return self.has("usr/lib/systemd/systemd", "lib/systemd/systemd")

    @property
    def has_cloud_init(self) -> bool:
        return self.has("usr/bin/cloud-init")

    @property
    def selinux_mode(self) -> str:
        """The state that SELinux gets at boot: ``enforcing``, ``permissive``, or an empty text (selinux(8))."""
        mode = self._selinux_setting("SELINUX").lower()
        return mode if mode in ("enforcing", "permissive") else ""

    @property
    def selinux_policy(self) -> str:
        """The policy by which files can be labelled with the system's own setfiles(8), or an empty text."""
        can = self.selinux_mode and self.has("usr/sbin/setfiles", "sbin/setfiles")
        name = self._selinux_setting("SELINUXTYPE") if can else ""
        return name if re.fullmatch(r"\w[\w.-]*", name) else ""

    def _selinux_setting(self, key: str) -> str:
        match = re.search(rf"^[ \t]*{key}[ \t]*=[ \t]*(\S+)", self.text("etc/selinux/config"), re.MULTILINE)
        return "" if match is None else match[1]

    @property
    def ssh_server(self) -> str:
        """``openssh``, ``dropbear`` or an empty text."""
        if self.has("usr/sbin/sshd", "usr/bin/sshd"):
            return "openssh"
        return "dropbear" if self.has("usr/sbin/dropbear") else ""

    @property
    def host_keys(self) -> tuple[str, ...]:
        """The public host keys of OpenSSH that the system has, without their comments."""
        keys = []
        for path in sorted(self.files):
            private = path.removesuffix(".pub")
            if re.fullmatch(r"etc/ssh/ssh_host_\w+_key\.pub", path) and private in self.values.get("there", ()):
                words = self.text(path).split()
                if len(words) >= 2:
                    keys.append(" ".join(words[:2]))
        return tuple(keys)

    @property
    def root_home(self) -> str:
        """Root's home folder."""
        for line in self.text("etc/passwd").splitlines():
            fields = line.split(":")
            if fields[0] == "root" and len(fields) >= 6 and posixpath.isabs(fields[5]):
                return fields[5]
        return "/root"


def describe_device(device: str) -> str:
    """The name of a volume of the disk, for messages."""
    number = device.removeprefix(DISK)
    if number == "":
        return "the whole disk"
    return f"partition {number}" if is_number(number) else device


def _name_device(problem: str) -> str:
    """*problem* with a name for people in the place of the volume's that it begins with."""
    device, colon, reason = problem.partition(": ")
    return f"{describe_device(device)}: {reason}" if colon and device.startswith(DISK) else problem


def _split(value: str, count: int) -> list[str]:
    """The words of *value*: *count*, of which the last ones may be empty."""
    words = value.split(" ", count - 1)
    return words + [""] * (count - len(words))
