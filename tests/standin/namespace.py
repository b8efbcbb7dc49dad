"""Namespaces of a process's own, in which it can be the host of a network and write where only root may.

A Mac's bridge, its DHCP server and its lease file have fixed names and places. In namespaces they can have them here,
without anybody outside noticing, and the kernel removes all of it with the last process, however that one ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

# linux/sched.h, linux/mount.h
_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_MS_REC = 0x4000
_MS_PRIVATE = 0x40000
_MNT_DETACH = 2
# linux/sockios.h, linux/if.h
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1

_PROGRAMS = ("ip", "dnsmasq", "qemu-system-x86_64", "setpriv")
_OVERLAID = ("etc", "var")
_PROBE_SECONDS = 30.0

_libc = ctypes.CDLL(None, use_errno=True)
_state = {"entered": False}


def can_enter() -> str | None:
    """Why this process cannot `enter`, or None. It stays where it is."""
    if not sys.platform.startswith("linux"):
        return "only Linux has namespaces"
    if os.geteuid() != 0:
        return "only root may make namespaces with a network and mounts of their own"
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    # Whether the kernel, or a container around us, lets it be is known only by doing it, which another process can.
    probe = subprocess.run(
        [sys.executable, "-IS", __file__], check=False, capture_output=True, text=True, timeout=_PROBE_SECONDS
    )
    return None if probe.returncode == 0 else probe.stderr.strip().rpartition("\n")[2]


def enter() -> None:
    """Move this process into a network and a file system of its own; its children follow, other threads do not.

    There is a loopback interface and nothing else. What is written under /etc and /var from now on is kept in memory
    and seen by nobody else. A second call does nothing.

    Raises:
        OSError: the kernel does not let us; see `can_enter`.
    """
    if _state["entered"]:
        return
    upper = Path(tempfile.mkdtemp(prefix="upper-", dir="/tmp"))
    try:
        if _libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET) != 0:
            raise _error("unshare")
        _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
        _mount("none", str(upper), "tmpfs", 0, "mode=0755")
        for name in _OVERLAID:
            top, work = upper / name, upper / f"{name}.work"
            top.mkdir()
            shutil.copystat(f"/{name}", top)
            work.mkdir()
            _mount("overlay", f"/{name}", "overlay", 0, f"lowerdir=/{name},upperdir={top},workdir={work}")
        # The overlays hold on to it; no name is needed any more.
        if _libc.umount2(os.fsencode(upper), _MNT_DETACH) != 0:
            raise _error("umount2")
    finally:
        upper.rmdir()
    set_up("lo")
    _state["entered"] = True


def set_up(interface: str) -> None:
    """Set a network interface "up" (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH22x", interface.encode(), 0))
        (flags,) = struct.unpack_from("H", request, 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", interface.encode(), flags | _IFF_UP))


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    arguments = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    if _libc.mount(*arguments, ctypes.c_ulong(flags), None if data is None else data.encode()) != 0:
        raise _error(f"mount {kind or 'private'} on {target}")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    enter()
