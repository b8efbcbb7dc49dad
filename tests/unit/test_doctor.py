"""The doctor: each check in its good and its bad states, and what it would run.

What macOS's programs say was not recorded on a Mac of ours; where it comes from is in mac_output/SOURCES.md. Short
answers stand here, with their source beside them.
"""

from __future__ import annotations

import json
import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pytest_xhyve.cli.commands import main
from pytest_xhyve.doctor import host, mac, mac_xhyve, tools, vpn
from pytest_xhyve.doctor.examine import examine
from pytest_xhyve.doctor.findings import Check, Finding, gather
from pytest_xhyve.doctor.mac import Mac
from pytest_xhyve.doctor.programs import CommandResult, CommandRunner
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.hypervisors.base import HypervisorInfo
from pytest_xhyve.model.errors import HypervisorNotFound, NotSupported, XhyveError

OUTPUT = Path(__file__).parent / "mac_output"
XHYVE = "/usr/local/bin/xhyve"
FIREWALL = "/usr/libexec/ApplicationFirewall/socketfilterfw"
NOW = 1_500_000_000


class Recorded(CommandRunner):
    """Answers by what was recorded; what was not is not here to be run.

    Attributes:
        ran: the command lines that were run, with what they read.
    """

    def __init__(self, answers: dict[str, CommandResult], found: dict[str, str] | None = None) -> None:
        self._answers = answers
        self._found = found or {}
        self.ran: list[tuple[str, str]] = []

    def find(self, name: str) -> str | None:
        return self._found.get(name)

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout: float = 0.0) -> CommandResult:  # noqa: ARG002
        line = " ".join(argv)
        self.ran.append((line, stdin))
        return self._answers[line]


def out(text: str) -> CommandResult:
    return CommandResult(0, text)


def recorded(name: str) -> CommandResult:
    return CommandResult(0, (OUTPUT / name).read_text())


# What sudo says (HenrikBengtsson/ucsf-vpn#28, and the same on macOS).
NO_PASSWORD = CommandResult(1, "", "sudo: a password is required\n")
NOT_SIGNED = CommandResult(1, "", f"{XHYVE}: code object is not signed at all\n")
# lima-vm/lima#4, machyve/xhyve#191: the shell says "Killed: 9".
KILLED = CommandResult(-9)
# getopt(3) of macOS, and the first lines of usage() in xhyve v0.2.0's src/xhyve.c.
NO_SUCH_OPTION = CommandResult(
    1, "", "xhyve: illegal option -- M\nUsage: xhyve [-behuwxACHPWY] [-c vcpus] [-g <gdb port>]\n"
)

SYSCTL_CPU = "/usr/sbin/sysctl -n machdep.cpu.brand_string"
SYSCTL_HV = "/usr/sbin/sysctl -n kern.hv_support"
SW_VERS = "/usr/bin/sw_vers -productVersion"
CODESIGN = f"/usr/bin/codesign -d --entitlements - {XHYVE}"
SUDO_XHYVE = f"/usr/bin/sudo -n -- {XHYVE} -v"
SUDO_KILL = "/usr/bin/sudo -n -- /bin/kill -0 1"
PRINT_DISABLED = "/bin/launchctl print-disabled system"
GLOBAL_STATE = f"{FIREWALL} --getglobalstate"
BLOCK_ALL = f"{FIREWALL} --getblockall"
LIST_APPS = f"{FIREWALL} --listapps"
ALLOW_SIGNED = f"{FIREWALL} --getallowsigned"
DF = "/bin/df -P /Users/me"
IFCONFIG = "/sbin/ifconfig -a"
OUR_RULES = f"/usr/bin/sudo -n /sbin/pfctl -a {vpn.ANCHOR} -s nat"
THEIR_RULES = f"/usr/bin/sudo -n /sbin/pfctl -a {vpn.SHARING_ANCHOR} -s nat"

# Shown in many public lists of checks of the firewall.
FIREWALL_ON = out("Firewall is enabled. (State = 1)\n")
FIREWALL_OFF = out("Firewall is disabled. (State = 0)\n")
BLOCKS_ALL = out("Firewall is blocking all non-essential incoming connections. (State = 2)\n")
SIGNED_ALLOWED = out(
    "Automatically allow built-in signed software ENABLED.\nAutomatically allow downloaded signed software ENABLED.\n"
)
SIGNED_NOT_ALLOWED = out(
    "Automatically allow built-in signed software DISABLED.\nAutomatically allow downloaded signed software DISABLED.\n"
)

# A Mac on which all is well.
GOOD = {
    SYSCTL_CPU: out("Intel(R) Core(TM) i7-8850H CPU @ 2.60GHz\n"),
    SYSCTL_HV: out("1\n"),
    SW_VERS: out("15.3\n"),
    f"{XHYVE} -M -v": CommandResult(0, "", (OUTPUT / "xhyve-v.txt").read_text()),
    CODESIGN: recorded("codesign-new.txt"),
    SUDO_XHYVE: CommandResult(0),
    SUDO_KILL: CommandResult(0),
    PRINT_DISABLED: recorded("print-disabled-enabled.txt"),
    GLOBAL_STATE: FIREWALL_ON,
    BLOCK_ALL: out("Firewall has block all state set to disabled.\n"),
    LIST_APPS: recorded("listapps-new.txt"),
    ALLOW_SIGNED: SIGNED_ALLOWED,
    DF: recorded("df-data.txt"),
    "/sbin/mount": recorded("mount.txt"),
    IFCONFIG: recorded("ifconfig-system-tunnels.txt"),
}

MakeMac = Callable[..., Mac]


@pytest.fixture
def make_mac(tmp_path: Path) -> MakeMac:
    def make(
        changed: dict[str, CommandResult] | None = None,
        *,
        found: str | None = XHYVE,
        mode: int = 0o100755,
        owner: int = 501,
        euid: int = 501,
    ) -> Mac:
        return Mac(
            Recorded({**GOOD, **(changed or {})}, {"xhyve": found} if found else {}),
            folder=Path("/Users/me"),
            euid=euid,
            user="me",
            leases=tmp_path / "leases",
            vmnet=tmp_path / "vmnet.plist",
            stat=lambda _: os.stat_result((mode, 0, 0, 1, owner, 20, 0, 0, 0, 0)),
            now=lambda: NOW,
        )

    return make


def test_all_is_well(make_mac: MakeMac) -> None:
    findings = gather(mac.checks(make_mac()))
    assert {finding.level for finding in findings} == {"ok"}
    assert {finding.title for finding in findings} == {
        "processor", "macOS", "file system", "xhyve", "xhyve's signature", "right to use vmnet", "vmnet",
        "DHCP server", "firewall", "DHCP leases", "VPN",
    }  # fmt: skip


def test_nothing_answers(make_mac: MakeMac) -> None:
    """Where no program of macOS can be run, there are findings all the same."""
    silent = {line: CommandResult(None, "", "No such file or directory") for line in GOOD}
    intel = {SYSCTL_CPU: GOOD[SYSCTL_CPU]}
    findings = gather(mac.checks(make_mac({**silent, **intel})))
    assert {finding.level for finding in findings if finding.title not in ("vmnet", "DHCP leases")} <= {
        "problem",
        "warning",
    }


Bad = tuple[str, dict[str, CommandResult], str, str, bool]
CASES: dict[str, Bad] = {
    # the finding's title, what is other than on a good Mac, words of what is seen, words of the cure, whether it stops
    "Apple's processor": (
        "processor",
        {SYSCTL_CPU: out("Apple M1\n")},
        "Apple M1: xhyve runs on",
        "install qemu",
        True,
    ),
    "Rosetta": (
        "processor",
        {SYSCTL_CPU: out("VirtualApple @ 2.50GHz processor\n")},
        "VirtualApple",
        "install qemu",
        True,
    ),
    "no support": ("processor", {SYSCTL_HV: out("0\n")}, "kern.hv_support is 0", "sysctl kern.hv_support", True),
    "unknown macOS": ("macOS", {SW_VERS: CommandResult(None, "", "gone")}, "unknown: gone", "sw_vers", False),
    "killed": ("xhyve", {f"{XHYVE} -M -v": KILLED, CODESIGN: NOT_SIGNED}, "Killed: 9", "codesign --force", True),
    "killed for networking": (
        "xhyve",
        {f"{XHYVE} -M -v": KILLED, CODESIGN: recorded("codesign-new-networking.txt")},
        "com.apple.vm.networking is for those",
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
        "has no com.apple.security",
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
        "has no com.apple.security.hypervisor",
        "codesign --force",
        True,
    ),
    "sudo asks": (
        "right to use vmnet",
        {SUDO_XHYVE: NO_PASSWORD},
        "without asking",
        f"me ALL=(root) NOPASSWD: {XHYVE}, /bin/kill",
        True,
    ),
    "sudo asks for kill": (
        "right to use vmnet",
        {SUDO_KILL: NO_PASSWORD},
        "without asking",
        f"chmod u+s {XHYVE}",
        True,
    ),
    "bootpd disabled, before macOS 13": (
        "DHCP server",
        {PRINT_DISABLED: recorded("print-disabled-monterey.txt")},
        "usual while no guest runs",
        "sudo launchctl enable system/com.apple.bootpd",
        False,
    ),
    "bootpd disabled": (
        "DHCP server",
        {PRINT_DISABLED: recorded("print-disabled-ventura.txt")},
        "usual while no guest runs",
        "sudo launchctl kickstart -kp system/com.apple.bootpd",
        False,
    ),
    "bootpd disabled with vmnet up": (
        "DHCP server",
        {
            PRINT_DISABLED: recorded("print-disabled-ventura.txt"),
            IFCONFIG: recorded("ifconfig-vpn.txt"),
            OUR_RULES: NO_PASSWORD,
            THEIR_RULES: NO_PASSWORD,
        },
        "while vmnet is in use",
        "launchctl enable",
        True,
    ),
    "launchd does not say": (
        "DHCP server",
        {PRINT_DISABLED: CommandResult(1, "", "Not privileged\n")},
        "Not privileged",
        "sudo launchctl",
        False,
    ),
    "firewall blocks bootpd": (
        "firewall",
        {LIST_APPS: out((OUTPUT / "listapps-old-allowed.txt").read_text().replace("Allow", "Block"))},
        "blocks bootpd",
        f"--add /usr/libexec/bootpd\nsudo {FIREWALL} --unblock /usr/libexec/bootpd",
        True,
    ),
    "firewall blocks what macOS brings": ("firewall", {ALLOW_SIGNED: SIGNED_NOT_ALLOWED}, "lets none", "--add", True),
    "firewall before macOS 15": (
        "firewall",
        {SW_VERS: out("14.7.1\n")},
        "has no rule for bootpd",
        "--unblock",
        False,
    ),
    "firewall blocks all": ("firewall", {GLOBAL_STATE: BLOCKS_ALL}, "blocks all", "--setblockall off", False),
    "firewall blocks all, in other words": (
        "firewall",
        {BLOCK_ALL: out("Firewall has block all state set to enabled.\n")},
        "blocks all",
        "off",
        False,
    ),
    "firewall unknown": (
        "firewall",
        {GLOBAL_STATE: out("Firewall is fine.\n")},
        "Firewall is fine.",
        "--getglobal",
        False,
    ),
    "other file system": ("file system", {DF: recorded("df-hfs.txt")}, "is on hfs", "mount -t apfs", False),
    "unknown file system": (
        "file system",
        {DF: CommandResult(1, "", "df: ?")},
        "is unknown",
        "PYTEST_XHYVE_HOME",
        False,
    ),
    "VPN": (
        "VPN",
        {IFCONFIG: recorded("ifconfig-vpn.txt"), OUR_RULES: NO_PASSWORD, THEIR_RULES: NO_PASSWORD},
        "utun0, utun9 is up",
        "pytest-xhyve doctor --fix-vpn",
        False,
    ),
    "VPN, translated in part": (
        "VPN",
        {
            IFCONFIG: recorded("ifconfig-vpn.txt"),
            OUR_RULES: out("nat on utun0 inet from 192.168.64.0/24 to any -> (utun0) round-robin\n"),
            THEIR_RULES: recorded("pfctl-sharing-nat.txt"),
        },
        "utun9 is up",
        "--fix-vpn",
        False,
    ),
    "no ifconfig": ("VPN", {IFCONFIG: CommandResult(None, "", "gone")}, "ifconfig -a failed: gone", "doctor", False),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bad_state(make_mac: MakeMac, case: Bad) -> None:
    title, changed, seen, cure, stops = case
    findings = gather(mac.checks(make_mac(changed)))
    finding = next(finding for finding in findings if finding.title == title)
    assert finding.level != "ok"
    assert seen in finding.seen
    assert cure in finding.cure
    assert finding.stops == (frozenset({"xhyve"}) if stops else frozenset())
    assert_can_be_pasted(finding)


def assert_can_be_pasted(finding: Finding) -> None:
    done = subprocess.run(["sh", "-n"], check=False, input=finding.cure, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # An interactive zsh, which Macs have, takes comments for arguments.
    assert "#" not in finding.cure


def find(findings: Iterator[Finding], title: str) -> Finding:
    return next(finding for finding in findings if finding.title == title)


def test_apples_processor_leaves_nothing_to_ask_about_xhyve(make_mac: MakeMac) -> None:
    titles = [check.title for check in mac.checks(make_mac({SYSCTL_CPU: out("Apple M1\n")}))]
    assert titles == ["processor", "macOS", "file system"]


def test_no_xhyve(make_mac: MakeMac) -> None:
    (finding,) = mac.check_xhyve(make_mac(found=None))
    assert finding.level == "warning"
    assert finding.stops == {"xhyve"}
    assert "git clone https://github.com/machyve/xhyve" in finding.cure
    assert_can_be_pasted(finding)


def test_hyperkit_serves_too(make_mac: MakeMac) -> None:
    changed = {
        "/opt/hyperkit -M -v": CommandResult(0, "", (OUTPUT / "hyperkit-v.txt").read_text()),
        "/usr/bin/codesign -d --entitlements - /opt/hyperkit": recorded("codesign-new.txt"),
        "/usr/bin/sudo -n -- /opt/hyperkit -v": CommandResult(0),
    }
    this_mac = Mac(
        Recorded({**GOOD, **changed}, {"hyperkit": "/opt/hyperkit"}), Path("/"), 501, "me", stat=make_mac().stat
    )
    findings = list(mac.check_xhyve(this_mac))
    assert findings[0].seen == "/opt/hyperkit, hyperkit v0.20190201-11-gc0dd46"
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
    [({"euid": 0}, "this is root"), ({"mode": 0o104755, "owner": 0}, "setuid root"), ({}, "without asking")],
)
def test_ways_to_use_vmnet(make_mac: MakeMac, keys: dict[str, int], how: str) -> None:
    this_mac = make_mac(**keys)
    finding = find(mac.check_xhyve(this_mac), "right to use vmnet")
    assert finding.level == "ok"
    assert how in finding.seen
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


@pytest.mark.skipif(shutil.which("visudo") is None, reason="visudo is not here")
@pytest.mark.parametrize("path", [XHYVE, "/opt/my tools, v=1:2/xhyve"])
def test_sudoers_rule_is_one(make_mac: MakeMac, tmp_path: Path, path: str) -> None:
    cure = mac_xhyve._allow(make_mac(), path).splitlines()[0]
    rules = tmp_path / "rules"
    # The middle of the pasted line, run by a shell as it would be.
    write = cure.partition("&& ")[2].partition(" | sudo tee")[0]
    rules.write_bytes(subprocess.run(["sh", "-c", write], check=True, capture_output=True).stdout)
    done = subprocess.run(["visudo", "-c", "-f", str(rules)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", [plistlib.FMT_XML, plistlib.FMT_BINARY])
def test_vmnets_settings(make_mac: MakeMac, kind: plistlib.PlistFormat) -> None:
    this_mac = make_mac()
    (finding,) = mac.check_vmnet(this_mac)
    assert finding.seen == "was never used here; guests will be in 192.168.64.0/24"
    values = {"Shared_Net_Address": "192.168.70.1", "Shared_Net_Mask": "255.255.254.0"}
    this_mac.vmnet.write_bytes(plistlib.dumps(values, fmt=kind))
    (finding,) = mac.check_vmnet(this_mac)
    assert finding == Finding("vmnet", "ok", "guests are in 192.168.70.0/23")
    this_mac.vmnet.write_bytes(plistlib.dumps({"Other": 1}, fmt=kind))
    assert vpn.read_subnet(this_mac.vmnet) == vpn.DEFAULT_SUBNET


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"<plist>",
        b"<plist><dict><key>a</key></dict></plist>",
        b"bplist00garbage",
        plistlib.dumps(["a list"]),
        plistlib.dumps({"Shared_Net_Address": "x"}),
        plistlib.dumps({"Shared_Net_Mask": 7.5}),
    ],
)
def test_vmnets_settings_are_damaged(make_mac: MakeMac, content: bytes) -> None:
    this_mac = make_mac()
    this_mac.vmnet.write_bytes(content)
    (finding,) = mac.check_vmnet(this_mac)
    assert finding.level == "warning"
    assert "is damaged" in finding.seen
    assert_can_be_pasted(finding)


def test_firewall_off(make_mac: MakeMac) -> None:
    assert list(mac.check_firewall(make_mac({GLOBAL_STATE: FIREWALL_OFF}))) == [Finding("firewall", "ok", "is off")]


@pytest.mark.parametrize("version", ["13.4", "15.3"])
def test_firewall_lets_bootpd_through(make_mac: MakeMac, version: str) -> None:
    changed = {SW_VERS: out(version), LIST_APPS: recorded("listapps-old-allowed.txt")}
    (finding,) = mac.check_firewall(make_mac(changed))
    assert finding == Finding("firewall", "ok", "lets bootpd through")


@pytest.mark.parametrize(
    ("live", "level"),
    [(0, "ok"), (228, "ok"), (229, "warning"), (252, "warning"), (253, "problem")],
)
def test_leases(make_mac: MakeMac, live: int, level: str) -> None:
    this_mac = make_mac()
    records = [
        f"{{\n\tip_address=192.168.64.{number + 2}\n\thw_address=1,8e:1:99:9c:54:{number:x}\n"
        f"\tlease={NOW + (1 if number < live else -1):#x}\n}}\n"
        for number in range(253)
    ]
    records.append(f"{{\n\tip_address=10.0.0.1\n\thw_address=1,8e:1:99:9c:54:1\n\tlease={NOW + 1:#x}\n}}\n")
    this_mac.leases.write_text("".join(records))
    (finding,) = mac.check_leases(this_mac)
    assert finding.level == level
    assert f"{253 - live} of 253" in finding.seen
    assert finding.stops == ({"xhyve"} if level == "problem" else set())
    if level != "ok":
        assert f"sudo rm {this_mac.leases}" in finding.cure
        assert "kickstart" in finding.cure
        assert_can_be_pasted(finding)


def test_vpn_is_translated(make_mac: MakeMac) -> None:
    rules = vpn.rules_for(("utun0", "utun9"), IPv4Network("192.168.64.0/24"))
    changed = {IFCONFIG: recorded("ifconfig-vpn.txt"), OUR_RULES: out(rules), THEIR_RULES: out("")}
    (finding,) = mac.check_vpn(make_mac(changed))
    assert finding.level == "ok"


def test_qemu_is_missing(new_home: Home) -> None:
    def ask(cache: Path) -> HypervisorInfo:
        raise HypervisorNotFound("QEMU was not found: looked for qemu\n  install it")

    (finding,) = host.check_qemu(new_home, "linux", ask)
    assert finding == Finding(
        "QEMU",
        "problem",
        "QEMU was not found: looked for qemu",
        "sudo apt install qemu-system-x86 qemu-utils",
        frozenset({"qemu"}),
    )
    assert next(host.check_qemu(new_home, "darwin", ask)).cure == "brew install qemu"


@pytest.mark.parametrize("error", [XhyveError("broken"), OSError(8, "Exec format error")])
def test_qemu_is_broken(new_home: Home, error: Exception) -> None:
    def ask(cache: Path) -> HypervisorInfo:
        raise error

    (finding,) = host.check_qemu(new_home, "linux", ask)
    assert finding.level == "problem"
    assert str(error) in finding.seen


@pytest.mark.parametrize(
    ("platform", "reason", "cure"),
    [
        (
            "linux",
            "no kvm: /dev/kvm may not be opened by this user; add it to the group kvm",
            'usermod -aG kvm "$USER"',
        ),
        ("linux", "no kvm: there is no /dev/kvm", "modprobe -a kvm_intel kvm_amd"),
        ("linux", "no kvm: kvm is there, but a test program hung for 2 s", "dmesg"),
        ("darwin", "no hvf: …", "sysctl kern.hv_support"),
    ],
)
def test_qemu_emulates(new_home: Home, platform: str, reason: str, cure: str) -> None:
    (finding,) = host.check_qemu(
        new_home, platform, lambda _: HypervisorInfo("qemu", "9.0", "tcg", reason, emulated=True)
    )
    assert finding.level == "warning"
    assert reason in finding.seen
    assert cure in finding.cure
    assert not finding.stops
    assert_can_be_pasted(finding)


def test_remembered_acceleration_is_no_longer_true(new_home: Home) -> None:
    memory = new_home.folder("acceleration")

    def ask(cache: Path) -> HypervisorInfo:
        if cache == memory:
            return HypervisorInfo("qemu", "9.0", "tcg", "no kvm: …", emulated=True)
        return HypervisorInfo("qemu", "9.0", "kvm", "proved", emulated=False)

    fine, stale = host.check_qemu(new_home, "linux", ask)
    assert fine.level == "ok"
    assert stale.level == "warning"
    assert stale.cure == f"rm -r {memory}"


def test_folder_is_looked_at_and_not_made(new_home: Home, tmp_path: Path) -> None:
    findings = {finding.title: finding for finding in host.check_folder(new_home, "linux")}
    assert findings["cache folder"].level == "ok"
    assert findings["cloning"].level == "ok"
    assert not new_home.path.exists()
    assert list(tmp_path.iterdir()) == []


def test_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (finding,) = host.check_folder(Home(tmp_path / "file" / "home"), "linux")
    assert finding.level == "problem"
    assert finding.stops == {"qemu", "xhyve"}
    assert_can_be_pasted(finding)


def test_folder_cannot_be_written() -> None:
    # Not even by root.
    findings = list(host.check_folder(Home(Path("/proc/1/cache")), "linux"))
    assert findings[0].level == "problem"
    assert "cannot be written" in findings[0].seen


def test_clones_by_copying_without_any_other_way(
    new_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    cloning = find(host.check_folder(new_home, "linux"), "cloning")
    # Where the temporary folder shares extents, it needs no program.
    assert cloning.level == "warning" or "FICLONE" in cloning.seen


def test_little_space(new_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1 << 30))
    finding = find(host.check_folder(new_home, "linux"), "disk space")
    assert finding.level == "warning"
    assert "1 GiB free" in finding.seen
    assert_can_be_pasted(finding)


def test_worst_comes_first_and_a_failing_check_is_a_finding() -> None:
    def look() -> Iterator[Finding]:
        yield Finding("one", "ok", "fine")
        yield Finding("two", "problem", "bad", "mend it")
        raise OSError(5, "Input/output error")

    def fail() -> Iterator[Finding]:
        raise XhyveError("no\n  idea")
        yield

    findings = gather([Check("first", look), Check("second", fail)])
    assert [(finding.level, finding.title) for finding in findings] == [
        ("problem", "two"),
        ("warning", "first"),
        ("warning", "second"),
        ("ok", "one"),
    ]
    assert (
        next(findings[2].lines()) == "WARNING  second: cannot be found out: no idea; when that is seen to, look again:"
    )


@pytest.mark.parametrize(("level", "cure"), [("ok", "do"), ("warning", "")])
def test_what_is_wrong_has_a_cure_and_nothing_else(level: str, cure: str) -> None:
    with pytest.raises(ValueError, match="a cure"):
        Finding("x", level, "y", cure)  # type: ignore[arg-type]


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))


@pytest.mark.usefixtures("no_programs")
def test_a_mac_with_xhyve_alone_runs_guests(new_home: Home) -> None:
    folder = host.nearest_folder(new_home.path)
    # Its owner and mode are looked at, so it is a file that is there; root need not ask sudo.
    here = {line.replace(XHYVE, sys.executable): answer for line, answer in GOOD.items()}
    programs = Recorded({**here, f"/bin/df -P {folder}": GOOD[DF]}, {"xhyve": sys.executable})
    report = examine(platform="darwin", home=new_home, programs=programs)
    assert report.findings[0].title == "QEMU"
    assert report.runs_under == ("xhyve",)
    assert list(report.lines())[-1] == "guests can run here, under xhyve"


@pytest.mark.usefixtures("no_programs")
def test_nothing_of_xhyve_is_asked_elsewhere(new_home: Home) -> None:
    report = examine(platform="linux", home=new_home, programs=Recorded({}))
    assert report.runs_under == ()
    assert list(report.lines())[-1] == "no guest can run here"


def test_ssh_client() -> None:
    assert [finding.level for finding in tools.check_ssh("linux", Recorded({}, {"ssh": "/usr/bin/ssh"}))] == ["ok"]
    [finding] = tools.check_ssh("linux", Recorded({}))
    assert (finding.level, finding.cure) == ("warning", "sudo apt install openssh-client")
    assert "pytest-xhyve run and shell need it" in finding.seen
    [finding] = tools.check_ssh("darwin", Recorded({}))
    assert "/usr/bin" in finding.cure
    # Guests run without it.
    assert finding.stops == frozenset()


def test_tools_to_build_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert [finding.level for finding in tools.check_building()] == ["ok"]
    monkeypatch.setenv("PATH", str(tmp_path))
    [finding] = tools.check_building()
    assert finding.level == "warning"
    assert finding.seen.startswith("mmdebstrap, ")
    assert "fakeroot" not in finding.seen
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    [finding] = tools.check_building()
    assert "fakeroot, newuidmap not found" in finding.seen
    assert "mmdebstrap" in finding.cure


@pytest.mark.usefixtures("no_programs")
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_nobody_knows_the_cache_folder(platform: str) -> None:
    report = examine(platform=platform, home=None, programs=Recorded({**GOOD, "/bin/df -P /": GOOD[DF]}))
    [finding] = [finding for finding in report.findings if finding.title == "cache folder"]
    assert finding.level == "problem"
    assert HOME_VARIABLE in finding.cure
    assert report.runs_under == ()


def test_memory_of_another_user_is_no_finding_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "acceleration").mkdir()

    def ask(cache: Path) -> HypervisorInfo:
        if cache == tmp_path / "acceleration":
            raise PermissionError(13, "Permission denied")
        return HypervisorInfo("qemu", "7.2", "kvm", "proved", False)

    assert [finding.level for finding in host.check_qemu(Home(tmp_path), "linux", ask)] == ["ok"]


def test_lines_are_as_wide_as_the_terminal() -> None:
    finding = Finding("title", "warning", "seen " * 30, f"do {'this ' * 30}")
    *seen, cure = finding.lines(60)
    assert seen[0].startswith("WARNING  title: seen")
    assert len(seen) > 2
    assert all(len(line) <= 60 and line.startswith(" " * 9) for line in seen[1:])
    # It is for pasting.
    assert cure.endswith("this this ")
    assert len(list(finding.lines())) == 2


def call_doctor(*arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments], input=typed)


def test_command_with_what_is_here(new_home: Home) -> None:
    result = call_doctor()
    assert result.exit_code == 0
    assert "QEMU: " in result.output
    assert result.output.endswith("guests can run here, under qemu\n")


@pytest.mark.usefixtures("no_programs", "new_home")
def test_command_where_no_guest_can_run() -> None:
    result = call_doctor()
    assert result.exit_code == 1
    assert "PROBLEM  QEMU: QEMU was not found" in result.output
    assert "\n           sudo apt install" in result.output
    assert "Traceback" not in result.output
    as_json = call_doctor("--json")
    assert as_json.exit_code == 1
    said = json.loads(as_json.output)
    assert said["runs_under"] == []
    assert said["findings"][0]["title"] == "QEMU"
    assert said["findings"][0]["stops"] == ["qemu"]


@pytest.mark.parametrize("arguments", [["--yes"], ["--json", "--fix-vpn"]])
def test_options_that_do_not_go_together(arguments: list[str]) -> None:
    assert call_doctor(*arguments).exit_code == 2


PFCTL = "/usr/bin/sudo /sbin/pfctl"
LOAD = f"{PFCTL} -a com.apple/pytest-xhyve -f -"
UNDO = f"{PFCTL} -a com.apple/pytest-xhyve -F nat"
RULES = """\
nat on utun0 inet from 192.168.64.0/24 to any -> (utun0)
nat on utun9 inet from 192.168.64.0/24 to any -> (utun9)
"""
# basecamp/pow#452 and many more: what it says with every file, and all the same loads it.
CHATTER = (
    "pfctl: Use of -f option, could result in flushing of rules\n"
    "present in the main ruleset added by the system at startup.\n"
    "See /etc/pf.conf for further details.\n\n"
    "No ALTQ support in kernel\nALTQ related functions disabled\n"
)
VPN_IS_UP = {
    IFCONFIG: recorded("ifconfig-vpn.txt"),
    f"{PFCTL} -s nat": CommandResult(0, (OUTPUT / "pfctl-main-nat.txt").read_text(), CHATTER[-61:]),
    LOAD: CommandResult(0, "", CHATTER),
    f"{PFCTL} -s info": recorded("pfctl-info.txt"),
    # What pfctl's own code prints, on its standard error.
    f"{PFCTL} -E": CommandResult(0, "", "pf enabled\nToken : 12704518093125423167\n"),
}
DISABLED = out(
    (OUTPUT / "pfctl-info.txt").read_text().replace("Status: Enabled for 0 days 00:26:05", "Status: Disabled")
)


class Dialogue:
    """What was shown and asked, and the answer."""

    def __init__(self, answer: bool) -> None:
        self._answer = answer
        self.lines: list[str] = []
        self.questions: list[int] = []

    def confirm(self, question: str) -> bool:  # noqa: ARG002
        self.questions.append(len(self.lines))
        return self._answer

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def mend(
    programs: CommandRunner, tmp_path: Path, dialogue: Dialogue, *, euid: int = 501, platform: str = "darwin"
) -> bool:
    return vpn.fix_vpn(
        programs,
        platform=platform,
        euid=euid,
        confirm=dialogue.confirm,
        report=dialogue.lines.append,
        plist=tmp_path / "vmnet.plist",
    )


def test_vpn_is_mended_with_pf_on(tmp_path: Path) -> None:
    programs, dialogue = Recorded(VPN_IS_UP), Dialogue(True)
    assert mend(programs, tmp_path, dialogue)
    assert programs.ran == [(IFCONFIG, ""), (f"{PFCTL} -s nat", ""), (LOAD, RULES), (f"{PFCTL} -s info", "")]
    # All that is run as root was shown before the question, and the rules with it.
    shown = "\n".join(dialogue.lines[: dialogue.questions[0]])
    for line, stdin in programs.ran[1:]:
        assert line in shown
        assert all(rule in shown for rule in stdin.splitlines())
    assert f"{PFCTL} -E" in shown
    assert UNDO in dialogue.lines[-1]


def test_vpn_is_mended_with_pf_off(tmp_path: Path) -> None:
    programs, dialogue = Recorded({**VPN_IS_UP, f"{PFCTL} -s info": DISABLED}), Dialogue(True)
    assert mend(programs, tmp_path, dialogue)
    assert programs.ran[-1] == (f"{PFCTL} -E", "")
    assert f"{PFCTL} -X 12704518093125423167" in dialogue.lines[-1]
    assert UNDO in dialogue.lines[-2]


def test_vpn_is_mended_by_root_in_vmnets_own_subnet(tmp_path: Path) -> None:
    (tmp_path / "vmnet.plist").write_bytes(plistlib.dumps({"Shared_Net_Address": "192.168.70.1"}))
    as_root = {line.removeprefix("/usr/bin/sudo "): answer for line, answer in VPN_IS_UP.items()}
    programs = Recorded(as_root)
    assert mend(programs, tmp_path, Dialogue(True), euid=0)
    assert programs.ran[2] == (LOAD.removeprefix("/usr/bin/sudo "), RULES.replace("64.0", "70.0"))


def test_vpn_is_left_alone_when_refused(tmp_path: Path) -> None:
    programs, dialogue = Recorded(VPN_IS_UP), Dialogue(False)
    assert not mend(programs, tmp_path, dialogue)
    assert programs.ran == [(IFCONFIG, "")]
    assert dialogue.lines[-1] == "nothing was changed"


def test_tunnels_of_macos_itself_are_none_of_a_vpn(tmp_path: Path) -> None:
    programs, dialogue = Recorded({IFCONFIG: recorded("ifconfig-system-tunnels.txt")}), Dialogue(True)
    assert mend(programs, tmp_path, dialogue)
    assert programs.ran == [(IFCONFIG, "")]
    assert not dialogue.questions
    assert "nothing was changed" in dialogue.text


@pytest.mark.parametrize(
    "interface",
    [
        "",
        "utun3: flags=8050<POINTOPOINT,RUNNING,MULTICAST> mtu 1380\n\tinet 10.2.0.2 --> 10.2.0.2 netmask 0xffffffff\n",
        "en5: flags=8863<UP,BROADCAST,RUNNING> mtu 1500\n\tinet 10.2.0.2 netmask 0xffffff00 broadcast 10.2.0.255\n",
        "utun3: flags=8051<UP,POINTOPOINT,RUNNING> mtu 1380\n\tinet6 fd00::2 prefixlen 64\n",
    ],
    ids=["none", "down", "no tunnel", "IPv6 only"],
)
def test_no_vpn(tmp_path: Path, interface: str) -> None:
    programs = Recorded({IFCONFIG: out(interface)})
    assert mend(programs, tmp_path, Dialogue(True))
    assert len(programs.ran) == 1


def test_no_mac(tmp_path: Path) -> None:
    programs = Recorded({})
    with pytest.raises(NotSupported, match="macOS's packet filter, and this is linux"):
        mend(programs, tmp_path, Dialogue(True), platform="linux")
    assert programs.ran == []


@pytest.mark.parametrize(
    ("changed", "words", "last"),
    [
        ({f"{PFCTL} -s nat": NO_PASSWORD}, "a password is required\n.*nothing was changed", f"{PFCTL} -s nat"),
        ({f"{PFCTL} -s nat": out('nat-anchor "other/*" all\n')}, "has no nat-anchor", f"{PFCTL} -s nat"),
        # pfctl's parser, of rules that it does not take.
        (
            {LOAD: CommandResult(1, "", f"{CHATTER}stdin:1: syntax error\npfctl: Syntax error in config file\n")},
            f"failed: stdin:1: syntax error; pfctl: Syntax error in config file\n.*{UNDO}",
            LOAD,
        ),
        (
            {f"{PFCTL} -s info": CommandResult(1, "", "pfctl: /dev/pf: Permission denied\n")},
            f"not known.*\n.*-E\n.*{UNDO}",
            "",
        ),
        (
            {f"{PFCTL} -s info": DISABLED, f"{PFCTL} -E": CommandResult(1, "", "pfctl: no\n")},
            f"switched on.*\n.*{UNDO}",
            "",
        ),
        ({f"{PFCTL} -s info": DISABLED, f"{PFCTL} -E": CommandResult(0)}, "could not be switched on: code 0", ""),
        ({IFCONFIG: CommandResult(1, "", "ifconfig: no\n")}, "ifconfig -a failed: ifconfig: no", IFCONFIG),
    ],
)
def test_pfctl_fails(tmp_path: Path, changed: dict[str, CommandResult], words: str, last: str) -> None:
    programs = Recorded({**VPN_IS_UP, **changed})
    with pytest.raises(XhyveError, match=words):
        mend(programs, tmp_path, Dialogue(True))
    if last:
        assert programs.ran[-1][0] == last


@pytest.fixture
def on_a_mac(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    programs = Recorded(VPN_IS_UP)
    monkeypatch.setattr(CommandRunner, "run", lambda _, argv, **keys: programs.run(argv, **keys))
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "geteuid", lambda: 501)
    return programs


def test_command_asks_and_takes_no(on_a_mac: Recorded) -> None:
    result = call_doctor("--fix-vpn", typed="n\n")
    assert result.exit_code == 1
    assert "Run it? [y/N]" in result.output
    assert result.output.endswith("nothing was changed\n")
    assert len(on_a_mac.ran) == 1


@pytest.mark.parametrize(("arguments", "typed"), [([], "y\n"), (["--yes"], "")])
def test_command_mends(on_a_mac: Recorded, arguments: list[str], typed: str) -> None:
    result = call_doctor("--fix-vpn", *arguments, typed=typed)
    assert result.exit_code == 0
    assert (LOAD, RULES) in on_a_mac.ran
    assert ("Run it?" in result.output) == bool(typed)


def test_command_says_that_this_is_no_mac() -> None:
    result = call_doctor("--fix-vpn", "--yes")
    assert result.exit_code == 1
    assert result.output.startswith("Error: --fix-vpn is about macOS")


def test_programs_are_run_without_a_shell() -> None:
    programs = CommandRunner()
    assert programs.run(["cat"], stdin="$HOME; *") == CommandResult(0, "$HOME; *", "")
    assert programs.run(["echo", "$HOME"]).out == "$HOME\n"
    assert programs.run(["sh", "-c", "echo no >&2; kill -9 $$"]) == CommandResult(-9, "", "no\n")
    assert programs.run(["/no/such/program"]) == CommandResult(None, "", "/no/such/program: No such file or directory")
    assert "did not end within 0.1 s" in programs.run(["sleep", "60"], timeout=0.1).err
    assert programs.find("sh") is not None
    assert programs.find("no-such-program") is None
