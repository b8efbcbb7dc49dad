"""The Mac to check, and the checks for the machine itself.

The output of macOS's programs is known from their manual pages and from published examples; nothing of it was run on a
Mac of this project. If a check cannot parse an output, it gives a warning with the command, never an error.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_xhyve.doctor import vpn
from pytest_xhyve.doctor.findings import Finding
from pytest_xhyve.doctor.programs import CommandResult, CommandRunner
from pytest_xhyve.host.leases import LEASES
from pytest_xhyve.hypervisors.xhyve.limits import BIG_SUR
from pytest_xhyve.model.architecture import X86_64

XHYVE = frozenset({"xhyve"})
"""The hypervisors that a finding blocks if xhyve cannot run guests because of it."""

VFKIT = frozenset({"vfkit"})
"""The same for vfkit."""

VMNET = XHYVE | VFKIT
"""The hypervisors whose guests are on macOS's network, and get their addresses from its DHCP server."""

SEQUOIA = 15
TAHOE = 26


@dataclass(frozen=True, slots=True)
class Mac:
    """The Mac to check.

    Attributes:
        programs: runs its programs.
        folder: an existing folder on the disk for clones.
        euid: the current user's id.
        user: the current user's name.
        leases: the path of bootpd's file.
        vmnet: the path of vmnet's settings.
        stat: `os.stat`, for the file of xhyve.
        now: seconds since the epoch.
    """

    programs: CommandRunner
    folder: Path
    euid: int
    user: str
    leases: Path = LEASES
    vmnet: Path = vpn.VMNET_PLIST
    stat: Callable[[str], os.stat_result] = os.stat
    now: Callable[[], float] = time.time


def _processor(mac: Mac) -> CommandResult:
    return mac.programs.run(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"])


def is_intel(mac: Mac) -> bool:
    """Whether the processor is from Intel, as xhyve requires."""
    # Apple's processors are named "Apple M1"; a program under Rosetta reads "VirtualApple".
    return _processor(mac).out.startswith("Intel")


def check_processor(mac: Mac) -> Iterator[Finding]:
    """Check that the processor is from Intel, and supports guests."""
    name = _processor(mac).out.strip() or "an unknown processor"
    if not is_intel(mac):
        detail = (
            f"{name}: xhyve and hyperkit run only on Intel processors; on this Mac, vfkit and QEMU run guests. QEMU "
            f"emulates the processor of {X86_64.name} guests, which is about ten times slower; vfkit does not run them"
        )
        yield Finding("processor", "warning", detail, "brew install vfkit qemu", XHYVE)
        return
    # 1 means that the Hypervisor framework works (the framework's documentation, "Hypervisor").
    supported = mac.programs.run(["/usr/sbin/sysctl", "-n", "kern.hv_support"])
    if supported.out.strip() == "1":
        yield Finding("processor", "ok", f"{name}, with support for guests (kern.hv_support)")
    else:
        yield Finding(
            "processor",
            "problem",
            f"{name} does not support guests (kern.hv_support is {supported.out.strip() or 'unknown'}); in a "
            "virtual machine, enable nested virtualization on its host; this must print 1:",
            "sysctl kern.hv_support",
            VMNET,
        )


def major_version(mac: Mac) -> int | None:
    """The first number of macOS's version, or None if it is unknown."""
    match = re.match(r"(\d+)(?:\.(\d+))?", mac.programs.run(["/usr/bin/sw_vers", "-productVersion"]).out)
    if match is None:
        return None
    # macOS 11 and later report 10.16 to programs that were built for older releases.
    return BIG_SUR if match[0] == "10.16" else int(match[1])


def check_version(mac: Mac) -> Iterator[Finding]:
    """Report the version of macOS."""
    answer = mac.programs.run(["/usr/bin/sw_vers", "-productVersion"])
    if answer.code == 0 and answer.out.strip():
        yield Finding("macOS", "ok", answer.out.strip())
    else:
        yield Finding("macOS", "warning", f"the version is unknown: {answer.reason}", "sw_vers -productVersion")


def check_file_system(mac: Mac) -> Iterator[Finding]:
    """Check that clones are on APFS, which clones without copying."""
    title = "file system"
    name = _file_system(mac)
    if name == "apfs":
        yield Finding(title, "ok", f"{mac.folder} is on APFS")
        return
    fix = "mount -t apfs\nexport PYTEST_XHYVE_HOME=/a/folder/on/one/of/these"
    if name is None:
        detail = f"the file system of {mac.folder} is unknown; only APFS clones disks without copying"
    else:
        detail = f"{mac.folder} is on {name}; only APFS clones disks without copying"
    yield Finding(title, "warning", detail, fix)


def _file_system(mac: Mac) -> str | None:
    # df(1) prints the volume, also of paths that macOS maps to another place (/Users); mount(8) prints its type.
    volume = re.search(r"\d+% +(/.*)$", mac.programs.run(["/bin/df", "-P", str(mac.folder)]).out, re.MULTILINE)
    if volume is None:
        return None
    mounted = mac.programs.run(["/sbin/mount"]).out
    kind = re.search(rf"^.+ on {re.escape(volume[1])} \((\w+)", mounted, re.MULTILINE)
    return kind[1] if kind is not None else None
