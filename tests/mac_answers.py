"""What macOS's programs answer the doctor, as it was recorded.

None of it was recorded on a Mac of ours; mac_output/SOURCES.md names its source. Short answers stand here, with their
source beside them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from click.testing import CliRunner, Result

from pytest_xhyve.cli.commands import main
from pytest_xhyve.doctor import mac, vpn
from pytest_xhyve.doctor.findings import Finding, gather
from pytest_xhyve.doctor.mac import Mac
from pytest_xhyve.doctor.programs import CommandResult, CommandRunner

OUTPUT = Path(__file__).parent / "unit" / "doctor" / "mac_output"
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
    # hyperkit's, for the current xhyve has a defect: the name of the file says nothing.
    f"{XHYVE} -M -v": CommandResult(0, "", (OUTPUT / "hyperkit-v-last.txt").read_text()),
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
Bad = tuple[str, dict[str, CommandResult], str, str, bool]
"""A finding's title, what differs from a good Mac, a part of the detail and of the fix, whether it blocks guests."""


def check_bad_state(make_mac: MakeMac, case: Bad) -> None:
    """See that a Mac in this state gets the finding of *case*, with a fix that can be pasted."""
    title, changed, detail, fix, blocks = case
    findings = gather(mac.checks(make_mac(changed)))
    finding = next(finding for finding in findings if finding.title == title)
    assert finding.level != "ok"
    assert detail in finding.detail
    assert fix in finding.fix
    # What concerns macOS's network concerns both hypervisors that use it.
    assert finding.blocks in ((frozenset({"xhyve"}), frozenset({"xhyve", "vfkit"})) if blocks else (frozenset(),))
    assert_can_be_pasted(finding)


def assert_can_be_pasted(finding: Finding) -> None:
    done = subprocess.run(["sh", "-n"], check=False, input=finding.fix, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # An interactive zsh, which Macs have, takes comments for arguments.
    assert "#" not in finding.fix


def find(findings: Iterator[Finding], title: str) -> Finding:
    return next(finding for finding in findings if finding.title == title)


def call_doctor(*arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments], input=typed)
