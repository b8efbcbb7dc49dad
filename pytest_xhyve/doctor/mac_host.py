"""A Mac that is looked at, and checks for the machine itself.

What the programs of macOS answer is known from their manual pages and from people who showed it; nothing of it was run
on a Mac of ours. An answer that is not understood is a warning with the question in it, never an error.
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

XHYVE = frozenset({"xhyve"})
"""What a finding stops that keeps xhyve from running guests."""

BIG_SUR = 11
SEQUOIA = 15


@dataclass(frozen=True, slots=True)
class Mac:
    """The Mac that is looked at.

    Attributes:
        programs: runs its programs.
        folder: where clones are made; it is there.
        euid: the user who we are.
        user: this user's name.
        leases: bootpd's file.
        vmnet: vmnet's settings.
        stat: as `os.stat`, for the file of xhyve.
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
    """Whether its processor is one that xhyve is made for."""
    # Apple's own call themselves "Apple M1", and "VirtualApple" before a program that Rosetta translates.
    return _processor(mac).out.startswith("Intel")


def check_processor(mac: Mac) -> Iterator[Finding]:
    """Whether the processor is one that xhyve is made for, and can run guests."""
    name = _processor(mac).out.strip() or "an unknown processor"
    if not is_intel(mac):
        seen = f"{name}: xhyve runs on Intel's only, here it is QEMU that runs guests"
        yield Finding("processor", "warning", seen, "brew install qemu", XHYVE)
        return
    # 1 where the Hypervisor framework can be used (the framework's documentation, "Hypervisor").
    supported = mac.programs.run(["/usr/sbin/sysctl", "-n", "kern.hv_support"])
    if supported.out.strip() == "1":
        yield Finding("processor", "ok", f"{name}, with support for guests (kern.hv_support)")
    else:
        yield Finding(
            "processor",
            "problem",
            f"{name} offers no support for guests (kern.hv_support is {supported.out.strip() or 'unknown'}); in a "
            "virtual machine, its host must nest them; this must say 1:",
            "sysctl kern.hv_support",
            XHYVE,
        )


def major_version(mac: Mac) -> int | None:
    """The first number of macOS's version, if it tells."""
    match = re.match(r"(\d+)(?:\.(\d+))?", mac.programs.run(["/usr/bin/sw_vers", "-productVersion"]).out)
    if match is None:
        return None
    # So macOS 11 and later call themselves before programs that were built for older ones.
    return BIG_SUR if match[0] == "10.16" else int(match[1])


def check_version(mac: Mac) -> Iterator[Finding]:
    """Which macOS it is."""
    answer = mac.programs.run(["/usr/bin/sw_vers", "-productVersion"])
    if answer.code == 0 and answer.out.strip():
        yield Finding("macOS", "ok", answer.out.strip())
    else:
        yield Finding("macOS", "warning", f"its version is unknown: {answer.reason}", "sw_vers -productVersion")


def check_file_system(mac: Mac) -> Iterator[Finding]:
    """Whether clones are made on APFS, where they cost nothing."""
    title = "file system"
    name = _file_system(mac)
    if name == "apfs":
        yield Finding(title, "ok", f"{mac.folder} is on APFS")
        return
    cure = "mount -t apfs\nexport PYTEST_XHYVE_HOME=/a/folder/on/one/of/these"
    if name is None:
        yield Finding(title, "warning", f"that of {mac.folder} is unknown; APFS clones disks at no cost", cure)
    else:
        yield Finding(title, "warning", f"{mac.folder} is on {name}, and only APFS clones disks at no cost", cure)


def _file_system(mac: Mac) -> str | None:
    # df(1) tells the volume also of paths that macOS shows elsewhere than they are (/Users), and mount(8) its kind.
    volume = re.search(r"\d+% +(/.*)$", mac.programs.run(["/bin/df", "-P", str(mac.folder)]).out, re.MULTILINE)
    if volume is None:
        return None
    mounted = mac.programs.run(["/sbin/mount"]).out
    kind = re.search(rf"^.+ on {re.escape(volume[1])} \((\w+)", mounted, re.MULTILINE)
    return kind[1] if kind is not None else None
