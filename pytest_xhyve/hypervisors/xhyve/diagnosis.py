"""What xhyve's few words mean when it does not start, and what to do."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from pytest_xhyve.host.privilege import Privilege, sudoers_line
from pytest_xhyve.hypervisors.xhyve import vmnet
from pytest_xhyve.hypervisors.xhyve.build import Build

_SIGKILL = -9


class _Sign(NamedTuple):
    """Some of its words, and what helps; in braces stands the program."""

    words: str
    cure: str


_SIGNS = (
    _Sign(
        "processor not supported by Hypervisor.framework",
        "xhyve needs an Intel CPU with VT-x and EPT; in a virtual machine, nested virtualization",
    ),
    _Sign(
        "hv_vm_create",
        "another hypervisor may hold the CPU (VirtualBox, VMware Fusion), or the program lacks the entitlement "
        "com.apple.security.hypervisor: `codesign -d --entitlements - {program}` shows what it has",
    ),
    _Sign("pidfile error", "a file with an earlier process's id is in the way; remove it when that process is dead"),
    _Sign("Could not open backing file", "the disk is not there, or this user may not open it"),
    _Sign("Could not lock backing file", "another hyperkit has the disk open; `lsof` tells which"),
    _Sign("kexec: failed to load", "the kernel or its initial RAM disk is not one that it can load"),
    _Sign("Unable to setup memory", "the host has not enough memory for the guest: --xhyve-memory gives it less"),
)


def explain(build: Build, status: int | None, said: str, privilege: Privilege, program: str, waited: float) -> str:
    """Why *program* ended before its guest started.

    Args:
        build: which one it is.
        status: its exit status as `subprocess` has it; None when it had to be killed, as it did not go on.
        said: its words.
        privilege: how it was run.
        program: its path.
        waited: seconds, when it did not go on.
    """
    what = f"{build.name} {build.version}"
    words = "\n".join(f"    {line}" for line in said.splitlines()) or "    (it said nothing)"
    if status is None:
        return (
            f"{what} did not make its network card within {waited:g} s: vmnet hangs\n"
            "  it does so with two active wired interfaces, and after some VPNs: unplug or disconnect one; "
            "when that does not help, restart macOS"
        )
    cures = [sign.cure.format(program=program) for sign in _SIGNS if sign.words in said]
    if vmnet.REFUSAL in said:
        cures = [_why_refused(privilege, program)]
    if status == _SIGKILL:
        cures.append("somebody killed it, or macOS for want of memory, or it went with a guardian that was killed")
    ended = f"was ended by signal {-status}" if status < 0 else f"ended with code {status}"
    return f"{what} {ended} before the guest started; its words:\n{words}" + "".join(f"\n  {cure}" for cure in cures)


def busy_uuid(uuid: UUID, pid: int) -> str:
    """What is said when another process holds the slot's UUID."""
    return (
        f"process {pid} has a guest with the UUID {uuid}, which belongs to this slot; two cannot have it\n"
        "  it was left by a run that was killed: `pytest-xhyve reap` removes it; if that finds nothing, "
        f"kill process {pid}"
    )


def _why_refused(privilege: Privilege, program: str) -> str:
    if privilege.description == "as this user":
        return (
            "vmnet needs root, and this user may not run the program so without a password; one of these helps:\n"
            f"    sudo visudo -f /etc/sudoers.d/xhyve, and there: {sudoers_line(program)}\n"
            f"    sudo chown root:wheel {program} && sudo chmod u+s {program}"
        )
    return (
        f"vmnet refused, although the program ran {privilege.description}: all {vmnet.MOST_INTERFACES} interfaces "
        "are in use, or a VPN interferes\n"
        "  `pytest-xhyve ps` shows the guests of this user; disconnect the VPN; `pytest-xhyve doctor` shows more"
    )
