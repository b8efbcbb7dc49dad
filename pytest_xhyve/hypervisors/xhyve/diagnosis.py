"""Explain xhyve's short error messages when it does not start, and state the fix."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from pytest_xhyve.host.privilege import Privilege, sudoers_line
from pytest_xhyve.hypervisors.xhyve import vmnet
from pytest_xhyve.hypervisors.xhyve.build import Build

_SIGKILL = -9


class _KnownError(NamedTuple):
    """A part of xhyve's output, and the explanation with the fix; {program} is the program's path."""

    text: str
    fix: str


_BUILD_ANEW = 'this build is older than macOS 11: build the current one, see "Run on a Mac" in the docs'
_SIGN = (
    "the program lacks the entitlement com.apple.security.hypervisor: `codesign -d --entitlements - {program}` prints "
    "what it has; `pytest-xhyve doctor` prints the commands that sign it"
)
# The numbers are those of hv_error.h in macOS's SDK.
_KNOWN_ERRORS = (
    _KnownError(
        "processor not supported by Hypervisor.framework",
        "xhyve needs an Intel CPU with VT-x and EPT; in a virtual machine, nested virtualization",
    ),
    _KnownError("does not support desired secondary processor-based controls", _BUILD_ANEW),
    _KnownError("hv_vm_create unknown error -85377017", _SIGN),
    _KnownError("hv_vm_create unknown error -85377023", _BUILD_ANEW),
    _KnownError(
        "hv_vm_create HV_BUSY",
        "another hypervisor uses the CPU (VirtualBox, VMware Fusion, Parallels): quit it; `kextstat` may show a kernel "
        "extension that one left behind",
    ),
    _KnownError(
        "hv_vm_create HV_NO_RESOURCES", "macOS has no room for one more machine: end other guests, or restart the Mac"
    ),
    _KnownError(
        "hv_vm_create HV_ERROR",
        "Hypervisor.framework failed: quit other hypervisors, and if that does not help, restart the Mac",
    ),
    _KnownError("pidfile error", "the pidfile of an earlier process exists; if that process is dead, remove the file"),
    _KnownError("Could not open backing file", "the disk does not exist, or this user may not open it"),
    _KnownError("Could not lock backing file", "another hyperkit has the disk open; `lsof` shows which"),
    _KnownError("kexec: failed to load", "the program cannot load this kernel or its initial RAM disk"),
    _KnownError(
        "Unable to setup memory", "the host has not enough memory for the guest; give it less with --xhyve-memory"
    ),
)


def explain(build: Build, status: int | None, output: str, privilege: Privilege, program: str, waited: float) -> str:
    """Why *program* exited before its guest started, and the fix.

    Args:
        build: the program's build.
        status: its exit code as in `subprocess`; None if it hung and was killed.
        output: its output.
        privilege: how it was run.
        program: its path.
        waited: seconds that the plugin waited, if it hung.
    """
    name = f"{build.name} {build.version}"
    if status is None:
        return (
            f"{name} did not create its network card within {waited:g} s: vmnet hangs\n"
            "  vmnet hangs with two active wired interfaces, and after some VPNs: unplug or disconnect one; "
            "if that does not help, restart macOS"
        )
    fixes = [known.fix.format(program=program) for known in _KNOWN_ERRORS if known.text in output]
    if vmnet.REFUSAL in output:
        fixes = [_explain_refusal(privilege, program)]
    if status == _SIGKILL:
        fixes.append("another process killed it, or macOS did because memory was low, or its guardian was killed")
    event = f"was killed by signal {-status}" if status < 0 else f"ended with exit code {status}"
    lines = "\n".join(f"    {line}" for line in output.splitlines()) or "    (no output)"
    return f"{name} {event} before the guest started; its output:\n{lines}" + "".join(f"\n  {fix}" for fix in fixes)


def busy_uuid(uuid: UUID, pid: int) -> str:
    """The message if another process uses the slot's UUID."""
    return (
        f"process {pid} runs a guest with the UUID {uuid}, which belongs to this slot; two guests cannot share it\n"
        "  a killed run left that guest; remove it with `pytest-xhyve reap`, or, if that finds nothing, "
        f"kill process {pid}"
    )


def _explain_refusal(privilege: Privilege, program: str) -> str:
    if privilege.description == "as this user":
        return (
            "vmnet needs root, but this user may not run the program as root without a password; do one of these:\n"
            f"    sudo visudo -f /etc/sudoers.d/xhyve, and add the line: {sudoers_line(program)}\n"
            f"    sudo chown root:wheel {program} && sudo chmod u+s {program}\n"
            "  on macOS 26 and later, the entitlement com.apple.security.virtualization in its signature may be enough"
        )
    return (
        f"vmnet refused, although the program ran {privilege.description}: all {vmnet.MAX_INTERFACES} interfaces "
        "are in use, or a VPN interferes\n"
        "  `pytest-xhyve ps` shows the guests of this user; disconnect the VPN; `pytest-xhyve doctor` shows more"
    )
