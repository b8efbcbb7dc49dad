"""What the doctor says of vfkit on a Mac."""

from __future__ import annotations

import pytest
from mac_answers import KILLED, SW_VERS, SYSCTL_CPU, MakeMac, assert_can_be_pasted, find, out, recorded

from pytest_xhyve.doctor import mac
from pytest_xhyve.doctor.findings import gather
from pytest_xhyve.doctor.mac_signature import VIRTUALIZATION
from pytest_xhyve.doctor.programs import CommandResult

VFKIT = "/opt/homebrew/bin/vfkit"
VERSION = f"{VFKIT} --version"
CODESIGN = f"/usr/bin/codesign -d --entitlements - {VFKIT}"
SIGNED = out(recorded("codesign-new.txt").out.replace("com.apple.security.hypervisor", VIRTUALIZATION))
WELL = {VERSION: out("vfkit version: v0.6.4\n"), CODESIGN: SIGNED}
APPLE = {SYSCTL_CPU: out("Apple M2 Pro\n")}


def test_it_is_well(make_mac: MakeMac) -> None:
    findings = list(mac.check_vfkit(make_mac(WELL, vfkit=VFKIT)))
    assert [finding.level for finding in findings] == ["ok", "ok"]
    assert f"{VFKIT}, v0.6.4" in findings[0].detail


@pytest.mark.parametrize(
    ("changed", "title", "detail", "fix"),
    [
        ({VERSION: out("vfkit version: v0.6.1\n")}, "vfkit", "v0.6.1, which is too old", "brew install vfkit"),
        ({VERSION: out("krunkit 1.3.2\n")}, "vfkit", "is not vfkit", "brew install vfkit"),
        ({VERSION: KILLED}, "vfkit", "macOS killed", "brew install vfkit"),
        ({SW_VERS: out("12.7.6\n")}, "vfkit", "needs macOS 13", "sw_vers"),
        ({CODESIGN: out("")}, "vfkit's signature", f"does not grant {VIRTUALIZATION}", "brew reinstall vfkit"),
    ],
)
def test_problems(make_mac: MakeMac, changed: dict[str, CommandResult], title: str, detail: str, fix: str) -> None:
    finding = find(mac.check_vfkit(make_mac({**WELL, **changed}, vfkit=VFKIT)), title)
    assert finding.level == "problem"
    assert detail in finding.detail
    assert fix in finding.fix
    assert finding.blocks == frozenset({"vfkit"})
    assert_can_be_pasted(finding)


def test_signature_is_unknown(make_mac: MakeMac) -> None:
    changed = {CODESIGN: CommandResult(None, "", "codesign: not found")}
    finding = find(mac.check_vfkit(make_mac({**WELL, **changed}, vfkit=VFKIT)), "vfkit's signature")
    assert (finding.level, finding.blocks) == ("warning", frozenset())


def test_it_is_not_installed(make_mac: MakeMac) -> None:
    finding = find(mac.check_vfkit(make_mac(APPLE)), "vfkit")
    assert (finding.level, finding.fix) == ("warning", "brew install vfkit")
    # On an Intel Mac, there is more to choose from.
    on_intel = find(mac.check_vfkit(make_mac()), "vfkit")
    assert on_intel.level == "ok"
    assert finding.blocks == on_intel.blocks == frozenset({"vfkit"})


def test_network_is_checked_on_apple_silicon_if_it_is_installed(make_mac: MakeMac) -> None:
    titles = {finding.title for finding in gather(mac.checks(make_mac({**APPLE, **WELL}, vfkit=VFKIT)))}
    assert {"vfkit", "vmnet", "DHCP server", "firewall", "Local Network privacy"} <= titles
    assert "xhyve" not in titles
    without = {finding.title for finding in gather(mac.checks(make_mac(APPLE)))}
    assert "vfkit" in without
    assert "DHCP server" not in without
