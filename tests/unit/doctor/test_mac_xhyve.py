"""The doctor's checks of xhyve: the program, its signature, its right to use vmnet."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from mac_answers import (
    CODESIGN,
    GOOD,
    KILLED,
    NO_PASSWORD,
    NOT_SIGNED,
    OUTPUT,
    SUDO_KILL,
    SUDO_XHYVE,
    SW_VERS,
    XHYVE,
    Bad,
    MakeMac,
    Recorded,
    assert_can_be_pasted,
    check_bad_state,
    find,
    out,
    recorded,
)

from pytest_xhyve.doctor import mac, mac_xhyve
from pytest_xhyve.doctor.mac import Mac
from pytest_xhyve.doctor.mac_signature import VIRTUALIZATION
from pytest_xhyve.doctor.programs import CommandResult

OLD = {
    f"{XHYVE} -M -v": CommandResult(1, "", "xhyve: illegal option -- M\n"),
    f"{XHYVE} -v": CommandResult(0, "", "xhyve: v0.2.0\n\nxhyve is a port of FreeBSD's bhyve hypervisor\n"),
}
XHYVE_CASES: dict[str, Bad] = {
    "0.2.0 on macOS 11 and later": ("xhyve", OLD, "release 0.2.0 cannot create a machine", "moby/hyperkit", True),
    "0.2.0 on macOS 10.15": (
        "xhyve's guests",
        {**OLD, SW_VERS: out("10.15.7\n")},
        "does not boot Linux after 4.4",
        "moby/hyperkit",
        False,
    ),
    "today's xhyve": (
        "xhyve's guests",
        {f"{XHYVE} -M -v": CommandResult(0, "", (OUTPUT / "xhyve-v.txt").read_text())},
        "five times too fast",
        "xcode-select --install",
        False,
    ),
    "old hyperkit": (
        "xhyve",
        {f"{XHYVE} -M -v": CommandResult(0, "", (OUTPUT / "hyperkit-v.txt").read_text())},
        "up to v0.20200908 cannot",
        "make -C hyperkit",
        True,
    ),
    "killed": ("xhyve", {f"{XHYVE} -M -v": KILLED, CODESIGN: NOT_SIGNED}, "Killed: 9", "codesign --force", True),
    "killed for networking": (
        "xhyve",
        {f"{XHYVE} -M -v": KILLED, CODESIGN: recorded("codesign-new-networking.txt")},
        "only Apple grants com.apple.vm.networking",
        "Add :com.apple.security.hypervisor bool true",
        True,
    ),
    # EBADARCH, which macOS's execve(2) gives for another architecture's program.
    "not a program": (
        "xhyve",
        {f"{XHYVE} -M -v": CommandResult(None, "", f"{XHYVE}: Bad CPU type in executable")},
        "Bad CPU",
        "make -C",
        True,
    ),
    "not signed": ("xhyve's signature", {CODESIGN: NOT_SIGNED}, "not signed at all", "codesign --force --sign -", True),
    # codesign(1) of a signature without entitlements says nothing of them.
    "not entitled": (
        "xhyve's signature",
        {CODESIGN: CommandResult(0, "", f"Executable={XHYVE}\n")},
        "does not grant com.apple.security",
        XHYVE,
        True,
    ),
    "no codesign": (
        "xhyve's signature",
        {CODESIGN: CommandResult(None, "", "gone")},
        "unknown: gone",
        f"codesign -d --entitlements - {XHYVE}",
        False,
    ),
    "entitled in vain": (
        "xhyve's signature",
        {CODESIGN: out("[Dict]\n\t[Key] com.apple.security.hypervisor\n\t[Value]\n\t\t[Bool] false\n")},
        "does not grant com.apple.security.hypervisor",
        "codesign --force",
        True,
    ),
    "sudo asks": (
        "right to use vmnet",
        {SUDO_XHYVE: NO_PASSWORD},
        "without a password",
        f"me ALL=(root) NOPASSWD: {XHYVE}, /bin/kill",
        True,
    ),
    "sudo asks for kill": (
        "right to use vmnet",
        {SUDO_KILL: NO_PASSWORD},
        "without a password",
        f"chmod u+s {XHYVE}",
        True,
    ),
}


@pytest.mark.parametrize("case", XHYVE_CASES.values(), ids=XHYVE_CASES.keys())
def test_bad_state_of_xhyve(make_mac: MakeMac, case: Bad) -> None:
    check_bad_state(make_mac, case)


def test_no_xhyve(make_mac: MakeMac) -> None:
    (finding,) = mac.check_xhyve(make_mac(found=None))
    assert finding.level == "warning"
    assert finding.blocks == {"xhyve"}
    assert "git clone https://github.com/moby/hyperkit" in finding.fix
    assert_can_be_pasted(finding)


def test_hyperkit_serves_too(make_mac: MakeMac) -> None:
    changed = {
        "/opt/hyperkit -M -v": CommandResult(0, "", (OUTPUT / "hyperkit-v-last.txt").read_text()),
        "/usr/bin/codesign -d --entitlements - /opt/hyperkit": recorded("codesign-new.txt"),
        "/usr/bin/sudo -n -- /opt/hyperkit -v": CommandResult(0),
    }
    this_mac = Mac(
        Recorded({**GOOD, **changed}, {"hyperkit": "/opt/hyperkit"}), Path("/"), 501, "me", stat=make_mac().stat
    )
    findings = list(mac.check_xhyve(this_mac))
    assert findings[0].detail == "/opt/hyperkit, hyperkit v0.20210107-2-g3cb0d5"
    assert {finding.level for finding in findings} == {"ok"}


@pytest.mark.parametrize(
    ("version", "signature"),
    # CommandRunner that were built for older ones are told 10.16 by macOS 11 and later.
    [("11.0", "codesign-old.txt"), ("10.16", "codesign-old.txt"), ("26.5.1", "codesign-new.txt"), ("10.15.7", None)],
)
def test_signature_that_will_do(make_mac: MakeMac, version: str, signature: str | None) -> None:
    answer = NOT_SIGNED if signature is None else recorded(signature)
    found = mac.check_xhyve(make_mac({SW_VERS: out(f"{version}\n"), CODESIGN: answer}))
    assert find(found, "xhyve's signature").level == "ok"


def test_signature_that_will_not_do_on_10_16(make_mac: MakeMac) -> None:
    found = mac.check_xhyve(make_mac({SW_VERS: out("10.16\n"), CODESIGN: NOT_SIGNED}))
    assert find(found, "xhyve's signature").level == "problem"


@pytest.mark.parametrize(
    ("keys", "how"),
    [({"euid": 0}, "this is root"), ({"mode": 0o104755, "owner": 0}, "setuid root"), ({}, "without a password")],
)
def test_ways_to_use_vmnet(make_mac: MakeMac, keys: dict[str, int], how: str) -> None:
    this_mac = make_mac(**keys)
    finding = find(mac.check_xhyve(this_mac), "right to use vmnet")
    assert finding.level == "ok"
    assert how in finding.detail
    # Who need not ask sudo does not.
    ran = [line for line, _ in this_mac.programs.ran]  # type: ignore[attr-defined]
    assert (SUDO_XHYVE in ran) == (not keys)


@pytest.mark.parametrize("keys", [{"owner": 0}, {"mode": 0o104755}], ids=["root's", "setuid"])
def test_half_of_setuid_root_is_not_enough(make_mac: MakeMac, keys: dict[str, int]) -> None:
    finding = find(mac.check_xhyve(make_mac({SUDO_XHYVE: NO_PASSWORD}, **keys)), "right to use vmnet")
    assert finding.level == "problem"


def test_apple_may_have_granted_vmnet(make_mac: MakeMac) -> None:
    changed = {CODESIGN: recorded("codesign-new-networking.txt"), SUDO_XHYVE: NO_PASSWORD}
    finding = find(mac.check_xhyve(make_mac(changed)), "right to use vmnet")
    assert finding.level == "ok"


@pytest.mark.parametrize(("version", "level"), [("15.3", "problem"), ("26.1", "ok")])
def test_virtualization_is_enough_on_macos_26(make_mac: MakeMac, version: str, level: str) -> None:
    signature = (OUTPUT / "codesign-new-networking.txt").read_text().replace("com.apple.vm.networking", VIRTUALIZATION)
    changed = {CODESIGN: out(signature), SUDO_XHYVE: NO_PASSWORD, SW_VERS: out(f"{version}\n")}
    assert find(mac.check_xhyve(make_mac(changed)), "right to use vmnet").level == level


@pytest.mark.skipif(shutil.which("visudo") is None, reason="visudo is not here")
@pytest.mark.parametrize("path", [XHYVE, "/opt/my tools, v=1:2/xhyve"])
def test_sudoers_rule_is_one(make_mac: MakeMac, tmp_path: Path, path: str) -> None:
    fix = mac_xhyve._allow(make_mac(), path).splitlines()[0]
    rules = tmp_path / "rules"
    # The middle of the pasted line, run by a shell as it would be.
    write = fix.partition("&& ")[2].partition(" | sudo tee")[0]
    rules.write_bytes(subprocess.run(["sh", "-c", write], check=True, capture_output=True).stdout)
    done = subprocess.run(["visudo", "-c", "-f", str(rules)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
