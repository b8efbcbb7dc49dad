"""The doctor's checks of a Mac: processor, macOS, file system."""

from __future__ import annotations

import pytest
from mac_answers import DF, SW_VERS, SYSCTL_CPU, SYSCTL_HV, Bad, MakeMac, check_bad_state, out, recorded

from pytest_xhyve.doctor import mac
from pytest_xhyve.doctor.programs import CommandResult

HOST_CASES: dict[str, Bad] = {
    "Apple's processor": (
        "processor",
        {SYSCTL_CPU: out("Apple M1\n")},
        "Apple M1: xhyve and hyperkit run only on",
        "install vfkit qemu",
        True,
    ),
    "Rosetta": (
        "processor",
        {SYSCTL_CPU: out("VirtualApple @ 2.50GHz processor\n")},
        "VirtualApple",
        "install vfkit qemu",
        True,
    ),
    "no support": ("processor", {SYSCTL_HV: out("0\n")}, "kern.hv_support is 0", "sysctl kern.hv_support", True),
    "unknown macOS": ("macOS", {SW_VERS: CommandResult(None, "", "gone")}, "unknown: gone", "sw_vers", False),
    "other file system": ("file system", {DF: recorded("df-hfs.txt")}, "is on hfs", "mount -t apfs", False),
    "unknown file system": (
        "file system",
        {DF: CommandResult(1, "", "df: ?")},
        "is unknown",
        "PYTEST_XHYVE_HOME",
        False,
    ),
}


@pytest.mark.parametrize("case", HOST_CASES.values(), ids=HOST_CASES.keys())
def test_bad_state_of_host(make_mac: MakeMac, case: Bad) -> None:
    check_bad_state(make_mac, case)


def test_apples_processor_leaves_nothing_to_ask_about_xhyve(make_mac: MakeMac) -> None:
    titles = [check.title for check in mac.checks(make_mac({SYSCTL_CPU: out("Apple M1\n")}))]
    assert titles == ["processor", "macOS", "file system", "vfkit"]
