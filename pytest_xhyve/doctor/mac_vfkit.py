"""Checks for the program vfkit on a Mac: whether it is recent enough, and may use the Virtualization framework.

The output of macOS's programs is known from their manual pages and from published examples; nothing of it was run on a
Mac of this project. If a check cannot parse an output, it gives a warning with the command, never an error.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pytest_xhyve.doctor.findings import Finding
from pytest_xhyve.doctor.mac_host import VFKIT, Mac, is_intel, major_version
from pytest_xhyve.doctor.mac_signature import VIRTUALIZATION, ask, is_entitled, read_signature
from pytest_xhyve.hypervisors.vfkit.program import ask_version
from pytest_xhyve.model.errors import HypervisorNotFound

_NAME = "vfkit"
_INSTALL = "brew install vfkit"
_REINSTALL = "brew reinstall vfkit"
# The first with the firmware, with which the driver proves that the program works (doc/usage.md, "EFI bootloader").
_VENTURA = 13


def has_vfkit(mac: Mac) -> bool:
    """Whether the program is installed."""
    return mac.programs.find(_NAME) is not None


def check_vfkit(mac: Mac) -> Iterator[Finding]:
    """Check which vfkit is installed, and whether macOS lets it run guests."""
    path = mac.programs.find(_NAME)
    if path is None and is_intel(mac):
        # xhyve or hyperkit may be there.
        yield Finding("vfkit", "ok", "not installed", "", VFKIT)
        return
    if path is None:
        detail = "no vfkit found in PATH; it needs neither root nor a compiler"
        yield Finding("vfkit", "warning", detail, _INSTALL, VFKIT)
        return
    major = major_version(mac)
    if major is not None and major < _VENTURA:
        yield Finding("vfkit", "problem", f"{path} needs macOS 13 or later; use xhyve or QEMU", "sw_vers", VFKIT)
        return
    try:
        version = ask_version(path, lambda argv: ask(mac.programs, argv))
    except HypervisorNotFound as error:
        # The plugin's advice, in the second line, is the fix.
        yield Finding("vfkit", "problem", str(error).partition("\n")[0], _INSTALL, VFKIT)
        return
    yield Finding("vfkit", "ok", f"{path}, {version}")
    title = "vfkit's signature"
    signature = read_signature(mac, path)
    if is_entitled(signature, VIRTUALIZATION):
        yield Finding(title, "ok", f"it grants {VIRTUALIZATION}")
    elif signature.code is None:
        fix = f"codesign -d --entitlements - {shlex.quote(path)}"
        yield Finding(title, "warning", f"it is unknown: {signature.reason}", fix)
    else:
        detail = f"it does not grant {VIRTUALIZATION}, without which macOS refuses to run guests"
        yield Finding(title, "problem", detail, _REINSTALL, VFKIT)
