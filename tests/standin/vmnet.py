"""vmnet, macOS's framework for the networks of guests, and what xhyve does with it (pci_virtio_net_vmnet.c)."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from standin.faults import Faults

BRIDGE = "bridge100"
JOURNAL = "vmnet.jsonl"

# linux/if_tun.h, linux/sockios.h, linux/if.h
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_SIOCGIFINDEX = 0x8933
_SIOCBRADDIF = 0x89A2
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1

_LINGERS_SECONDS = 5.0
_POLL_SECONDS = 0.005


class Refused(Exception):
    """vmnet gives no interface, and as always says not why."""


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface for a guest.

    Attributes:
        mac: chosen by vmnet; the same for the same id, always.
        tap: the host's end, as a descriptor of a tap device. It is there until this is closed.
    """

    mac: bytes
    tap: int


def start_interface(uuid: bytes, folder: Path, faults: Faults) -> Interface:
    """Ask vmnet for the interface with the id *uuid*, on the one network that it shares between guests.

    As long as a process has an interface, no other can have the same.

    Args:
        uuid: 16 bytes, the time fields in the host's byte order.
        folder: where all processes meet.
        faults: what goes wrong.

    Raises:
        Refused: for whatever reason.
    """
    text = uuid_text(uuid)
    with _Entry(folder, text) as entry:
        if os.geteuid() != 0:
            raise Refused
        with _Turn(folder) as turn:
            entry.overlapped = turn.taken
            while faults.vmnet_hangs:
                signal.pause()
            time.sleep(faults.vmnet_seconds)
            if turn.taken or text in faults.refused_uuids:
                raise Refused
            # Never closed: the interface is the process's until that ends.
            _take_id(folder, text)
            _take_number(folder, faults.interfaces)
            interface = Interface(mac_of(uuid), open_tap())
        entry.refused = False
    return interface


def mac_of(uuid: bytes) -> bytes:
    """The MAC that vmnet chooses for an id: locally administered, for one machine, and with an octet below 16."""
    digest = hashlib.sha256(b"vmnet" + uuid).digest()
    first = digest[0] & 0xFC | 0x02
    return bytes((first, digest[1], digest[2], digest[3] & 0x0F, digest[4], digest[5]))


class _Entry:
    """An entry of the journal: a line when it begins and another when it ends, if it does."""

    def __init__(self, folder: Path, uuid: str) -> None:
        self._path = folder / JOURNAL
        self._uuid = uuid
        self._begin = time.monotonic()
        self.overlapped = False
        self.refused = True

    def __enter__(self) -> _Entry:
        self._write(None)
        return self

    def __exit__(self, *_: object) -> None:
        self._write(time.monotonic())

    def _write(self, end: float | None) -> None:
        pid = os.getpid()
        told = {
            "key": f"{pid} {self._begin}",
            "pid": pid,
            "uuid": self._uuid,
            "begin": self._begin,
            "end": end,
            "overlapped": self.overlapped,
            "refused": self.refused,
        }
        # A user who may not write there could not have an interface either.
        with suppress(PermissionError):
            journal = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.write(journal, json.dumps(told).encode() + b"\n")
            os.close(journal)


class _Turn:
    """That this process is being given an interface; *taken* says that another is just now."""

    def __init__(self, folder: Path) -> None:
        self._lock = _open_lock(folder / "vmnet.lock")
        self.taken = False

    def __enter__(self) -> _Turn:
        self.taken = not _lock(self._lock)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)


def _take_id(folder: Path, uuid: str) -> None:
    """Hold the id as long as this process, or a QEMU of its, lives."""
    lock = _open_lock(folder / "ids" / uuid)
    end = time.monotonic() + _LINGERS_SECONDS
    while not _lock(lock):
        # With a real xhyve the guest ends when its process does. Here QEMU follows, a moment later.
        holder = os.pread(lock, 32, 0).decode()
        if _lives(holder) or time.monotonic() > end:
            os.close(lock)
            raise Refused
        time.sleep(_POLL_SECONDS)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    os.set_inheritable(lock, True)


def _take_number(folder: Path, limit: int) -> None:
    """Hold one of *limit* numbers, likewise."""
    for number in range(limit):
        lock = _open_lock(folder / "interfaces" / str(number))
        if _lock(lock):
            os.set_inheritable(lock, True)
            return
        os.close(lock)
    raise Refused


def _lives(pid: str) -> bool:
    if not pid:
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


def _open_lock(path: Path) -> int:
    path.parent.mkdir(exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_tap() -> int:
    """A new tap device on the bridge; it goes when its last descriptor does (tuntap.rst in Linux's documentation)."""
    tap = os.open("/dev/net/tun", os.O_RDWR)
    made = fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", b"vmenet%d", _IFF_TAP | _IFF_NO_PI))
    name = made[:16]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        (index,) = struct.unpack_from("i", fcntl.ioctl(control, _SIOCGIFINDEX, name + bytes(24)), 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, name + struct.pack("H22x", _IFF_UP))
        fcntl.ioctl(control, _SIOCBRADDIF, struct.pack("16si20x", BRIDGE.encode(), index))
    return tap


def uuid_text(uuid: bytes) -> str:
    """The id as ``-U`` has it."""
    fields = (uuid[3::-1], uuid[5:3:-1], uuid[7:5:-1], uuid[8:10], uuid[10:])
    return "-".join(field.hex() for field in fields)
