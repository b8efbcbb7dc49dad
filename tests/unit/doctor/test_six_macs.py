"""The doctor's whole report on six Macs, made from recorded answers of macOS's programs.

After a change of the doctor's words, write the files again with ``WRITE_SIX_MACS=1``, and read the difference.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from mac_answers import (
    BLOCKS_ALL,
    CODESIGN,
    FIREWALL_OFF,
    GLOBAL_STATE,
    IFCONFIG,
    NO_PASSWORD,
    NOT_SIGNED,
    OUR_RULES,
    OUTPUT,
    PRINT_DISABLED,
    SUDO_XHYVE,
    SW_VERS,
    SYSCTL_CPU,
    THEIR_RULES,
    XHYVE,
    MakeMac,
    assert_can_be_pasted,
    out,
    recorded,
)

from pytest_xhyve.doctor import mac
from pytest_xhyve.doctor.findings import gather
from pytest_xhyve.doctor.programs import CommandResult

REPORTS = Path(__file__).parent / "six_macs"
ASKED = f"{XHYVE} -M -v"
VFKIT = "/opt/homebrew/bin/vfkit"
SIGNED_FOR_VFKIT = recorded("codesign-new.txt").out.replace("security.hypervisor", "security.virtualization")


def answer(name: str) -> CommandResult:
    return CommandResult(0, "", (OUTPUT / name).read_text())


MACS: Mapping[str, dict[str, CommandResult]] = {
    # An old Docker Desktop's hyperkit, which is not signed for what macOS 11 asks of it.
    "intel-12": {
        SW_VERS: out("12.7.6\n"),
        SYSCTL_CPU: out("Intel(R) Core(TM) i5-5257U CPU @ 2.70GHz\n"),
        ASKED: answer("hyperkit-v.txt"),
        CODESIGN: NOT_SIGNED,
        PRINT_DISABLED: recorded("print-disabled-monterey.txt"),
        GLOBAL_STATE: FIREWALL_OFF,
    },
    # The current xhyve, but no right to run it as root; a VPN is connected while a guest runs.
    "intel-13": {
        SW_VERS: out("13.6.9\n"),
        ASKED: answer("xhyve-v.txt"),
        SUDO_XHYVE: NO_PASSWORD,
        PRINT_DISABLED: recorded("print-disabled-ventura.txt"),
        IFCONFIG: recorded("ifconfig-vpn.txt"),
        OUR_RULES: NO_PASSWORD,
        THEIR_RULES: NO_PASSWORD,
    },
    # hyperkit from its current sources; the firewall blocks everything.
    "intel-15": {SW_VERS: out("15.3\n"), GLOBAL_STATE: BLOCKS_ALL},
    "apple-14": {SW_VERS: out("14.5\n"), SYSCTL_CPU: out("Apple M1\n")},
    # vfkit of Homebrew; and one that Podman has installed.
    "apple-15": {
        SW_VERS: out("15.3\n"),
        SYSCTL_CPU: out("Apple M2 Pro\n"),
        f"{VFKIT} --version": out("vfkit version: v0.6.4\n"),
        f"/usr/bin/codesign -d --entitlements - {VFKIT}": out(SIGNED_FOR_VFKIT),
    },
    "apple-26": {
        SW_VERS: out("26.1\n"),
        SYSCTL_CPU: out("Apple M4\n"),
        f"{VFKIT} --version": out("vfkit version: v0.6.1\n"),
    },
}
WITH_VFKIT = ("apple-15", "apple-26")


def at(make_mac: MakeMac, name: str) -> mac.Mac:
    return make_mac(MACS[name], vfkit=VFKIT if name in WITH_VFKIT else None)


@pytest.mark.parametrize("name", MACS)
def test_report(make_mac: MakeMac, name: str, tmp_path: Path) -> None:
    findings = gather(mac.checks(at(make_mac, name)))
    for finding in findings:
        assert_can_be_pasted(finding)
    lines = [line for finding in findings for line in finding.lines(100)]
    text = "\n".join(lines).replace(str(tmp_path), "/private") + "\n"
    if "WRITE_SIX_MACS" in os.environ:
        (REPORTS / f"{name}.txt").write_text(text)
    assert text == (REPORTS / f"{name}.txt").read_text()


@pytest.mark.parametrize(
    ("name", "blocked"),
    [
        ("intel-12", True),
        ("intel-13", True),
        ("intel-15", False),
        *((f"apple-{major}", True) for major in (14, 15, 26)),
    ],
)
def test_whether_xhyve_runs_guests(make_mac: MakeMac, name: str, blocked: bool) -> None:
    assert any("xhyve" in finding.blocks for finding in gather(mac.checks(at(make_mac, name)))) == blocked


def test_whether_vfkit_runs_guests(make_mac: MakeMac) -> None:
    runs = {
        name
        for name in MACS
        if not any("vfkit" in finding.blocks for finding in gather(mac.checks(at(make_mac, name))))
    }
    assert runs == {"apple-15"}
