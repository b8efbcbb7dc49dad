"""Let a build run the packages' programs for another processor, by QEMU's emulation of programs.

The kernel finds the emulator in binfmt_misc (Linux, Documentation/admin-guide/binfmt-misc.rst). Since Linux 6.7, each
user namespace can have entries of its own, so the host has none before, during or after a build. mmdebstrap makes a
user namespace for an ordinary user; for root, this module does.

``python -m pytest_xhyve.images.emulator enter PROGRAM…`` runs a program in a new user namespace;
``… register ARCHITECTURE`` is a hook of mmdebstrap in it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_xhyve.model.architecture import Architecture, architecture_of
from pytest_xhyve.model.errors import ImageError

PACKAGE = "qemu-user-static"
"""Debian's package with the emulators."""

_FOLDER = Path("/proc/sys/fs/binfmt_misc")
_MOUNT_SECONDS = 30.0
# linux/sched.h
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
# All users that packages have; the namespace in which the host runs maps more of them (user_namespaces(7)).
_USERS = 1 << 16
_MAP = f"0 0 {_USERS}\n"
_FIRST_NAMESPACE = ["0", "0", str((1 << 32) - 1)]
# e_ident, where ELFOSABI may be any; e_type, which may be ET_EXEC or ET_DYN; e_machine.
_MASK = b"\xff" * 7 + b"\0" + b"\xff" * 8 + b"\xfe\xff\xff\xff"


def find_emulator(architecture: Architecture) -> str | None:
    """The program that emulates programs for *architecture*; it is static, so that it runs in any root file system."""
    return shutil.which(f"qemu-{architecture.name}-static")


def entry_for(architecture: Architecture, emulator: str) -> str:
    """The entry of binfmt_misc for *emulator*. With the flag F, the kernel opens it now, and not in the new root."""
    magic = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + b"\x02\0" + architecture.elf_machine.to_bytes(2, "little")
    return f":xhyve-{architecture.name}:M::{_escape(magic)}:{_escape(_MASK)}:{emulator}:F"


def check_entry_of_host(architecture: Architecture, folder: Path = _FOLDER) -> None:
    """Check that an entry of the host in *folder* can serve a build.

    Raises:
        ImageError: there is none, or it has no flag F.
    """
    machine = architecture.elf_machine.to_bytes(2, "little").hex()
    entries = [path for path in folder.glob("*") if path.name not in ("register", "status")]
    for entry in entries:
        words = dict(line.partition(" ")[::2] for line in entry.read_text().splitlines())
        if not words.get("magic", "").endswith(machine) or "enabled" not in words:
            continue
        if "F" not in words.get("flags:", ""):
            raise ImageError(
                f"the entry {entry.name} of binfmt_misc has no flag F, so the kernel would look for "
                f"{words.get('interpreter')} in the new image\n"
                f"  register it again with that flag, as the package {PACKAGE} does, or use Linux 6.7 or later"
            )
        return
    raise ImageError(
        f"this kernel has no entries of binfmt_misc for a namespace, and the host has none for {architecture.name}\n"
        f"  register one, as the package {PACKAGE} does with systemd, or use Linux 6.7 or later"
    )


def _escape(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


def _register(architecture: Architecture) -> None:
    """Let this namespace run programs for *architecture*."""
    if Path("/proc/self/uid_map").read_text().split() == _FIRST_NAMESPACE:
        raise ImageError("this is the namespace of the host, which gets no entry")
    emulator = find_emulator(architecture)
    if emulator is None:
        raise ImageError(explain_missing_emulator(architecture))
    mount = ["mount", "-t", "binfmt_misc", "binfmt_misc", str(_FOLDER)]
    mounted = subprocess.run(mount, check=False, capture_output=True, text=True, timeout=_MOUNT_SECONDS)
    if mounted.returncode != 0:
        check_entry_of_host(architecture)
        return
    (_FOLDER / "register").write_text(entry_for(architecture, emulator))


def explain_missing_emulator(architecture: Architecture) -> str:
    """The message if nothing emulates programs for *architecture*."""
    return (
        f"the programs of the packages need {architecture.name}, and qemu-{architecture.name}-static is not installed, "
        f"which emulates it\n  Debian and Ubuntu: apt install {PACKAGE}"
    )


def _enter(argv: Sequence[str]) -> None:
    """Become the program *argv*, as root of a new user namespace with the same users."""
    libc = ctypes.CDLL(None, use_errno=True)
    wait, begin = os.pipe()
    inside = os.getpid()
    child = os.fork()
    if child == 0:
        # In the namespace outside, from where the users are mapped.
        os.close(begin)
        os.read(wait, 1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{inside}/{name}").write_text(_MAP)
        os._exit(0)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "cannot make a user namespace (unshare(2))")
    os.close(begin)
    os.waitpid(child, 0)
    os.execvp(argv[0], list(argv))  # noqa: S606  # the build's own words


def main(argv: Sequence[str]) -> int:
    """``enter PROGRAM ARGUMENT…`` or ``register ARCHITECTURE …``."""
    command, *arguments = argv
    try:
        if command == "enter":
            _enter(arguments)
        else:
            _register(architecture_of(arguments[0]))
    except (ImageError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
