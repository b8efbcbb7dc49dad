"""Each message of the three programs has a cause of its own, and a cure of its own."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from pytest_xhyve.host.privilege import Privilege
from pytest_xhyve.hypervisors.xhyve.build import Build
from pytest_xhyve.hypervisors.xhyve.diagnosis import explain
from pytest_xhyve.hypervisors.xhyve.limits import find_defect, find_obstacle

AS_ROOT = Privilege((), (), "as root")
AS_USER = Privilege((), (), "as this user")
PROGRAM = "/opt/xhyve"
REFUSAL = "virtio_net: Could not create vmnet interface, permission denied or no entitlement?\n"


def build_of(name: str, version: str, *, is_new: bool = True) -> Build:
    return Build(name, version, is_new, is_new, name == "hyperkit", MappingProxyType({}))


HEAD = build_of("xhyve", "v0.2.0-108-gdfbe09")
OLD = build_of("xhyve", "v0.2.0", is_new=False)

# What each program prints (vmx.c, xhyve.c, block_if.c, kexec.c), and a part of the cure.
MESSAGES = {
    "no VT-x": ("vmx_init: processor not supported by Hypervisor.framework\nUnable to create VM (-85377018)\n", "VT-x"),
    "0.2.0 on macOS 11": (
        "vmx_init: processor does not support desired secondary processor-based controls\nUnable to create VM (22)\n",
        "build the current one",
    ),
    "not entitled": ("hv_vm_create unknown error -85377017\n", "codesign -d --entitlements - /opt/xhyve"),
    "old hyperkit on macOS 11": ("hv_vm_create unknown error -85377023\n", "older than macOS 11"),
    "busy": ("hv_vm_create HV_BUSY\n", "VirtualBox"),
    "no resources": ("hv_vm_create HV_NO_RESOURCES\n", "end other guests"),
    "error": ("hv_vm_create HV_ERROR\n", "Hypervisor.framework failed"),
    "pidfile": ("Failed to set up pidfile\npidfile error -1\n", "remove the file"),
    "disk": ("Could not open backing file: No such file or directory\n", "disk does not exist"),
    "locked disk": ("Could not lock backing file\n", "another hyperkit"),
    "kernel": ("kexec: failed to load kernel vmlinuz\n", "cannot load this kernel"),
    "memory": ("Unable to setup memory (12)\n", "--xhyve-memory"),
    "vmnet": (REFUSAL, "all 32 interfaces"),
}


def cures(output: str, status: int | None = 1, privilege: Privilege = AS_ROOT) -> list[str]:
    """The lines of the explanation that are not the program's own."""
    lines = explain(HEAD, status, output, privilege, PROGRAM, 60).splitlines()
    return [line.strip() for line in lines[1:] if not line.startswith("    ")]


@pytest.mark.parametrize(("output", "cure"), MESSAGES.values(), ids=MESSAGES.keys())
def test_message_has_its_cure(output: str, cure: str) -> None:
    first, *_ = cures(output)
    assert cure in first


def test_no_two_messages_share_a_cure_by_chance() -> None:
    # The two builds that are too old have one cause, and so one cure.
    assert len({tuple(cures(output)) for output, _ in MESSAGES.values()}) == len(MESSAGES) - 1


def test_unknown_message_gets_no_wrong_cure() -> None:
    assert cures("hv_vm_create unknown error -1\n") == []
    assert cures("something else\n") == []


def test_right_is_missing() -> None:
    text = explain(HEAD, 1, REFUSAL, AS_USER, PROGRAM, 60)
    assert "NOPASSWD: /opt/xhyve, /bin/kill" in text


@pytest.mark.parametrize(
    ("build", "macos", "runs"),
    [
        (OLD, 10, True),
        (OLD, 11, False),
        (OLD, 15, False),
        (OLD, None, False),
        (HEAD, 15, True),
        (HEAD, None, True),
        (build_of("hyperkit", "v0.20190201-11-gc0dd46"), 12, False),
        (build_of("hyperkit", "v0.20200908"), 12, False),
        (build_of("hyperkit", "0.20200908"), 12, False),
        (build_of("hyperkit", "v0.20200908"), 10, True),
        (build_of("hyperkit", "v0.20200908-4-g0123abc"), 12, True),
        (build_of("hyperkit", "v0.20210107"), 26, True),
        (build_of("hyperkit", "v0.20210107-2-g3cb0d54"), 15, True),
        (build_of("hyperkit", "0.1"), 15, True),
    ],
)
def test_build_is_judged_with_macos(build: Build, macos: int | None, runs: bool) -> None:
    assert (find_obstacle(build, macos) is None) == runs


def test_defects_of_guests() -> None:
    assert "4.4" in (find_defect(OLD) or "")
    assert "five times too fast" in (find_defect(HEAD) or "")
    assert find_defect(build_of("hyperkit", "v0.20210107")) is None
