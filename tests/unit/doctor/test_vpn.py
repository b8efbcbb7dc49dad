"""VPNs on a Mac: the doctor's check of them, and ``doctor --fix-vpn``."""

from __future__ import annotations

import os
import plistlib
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from mac_answers import (
    IFCONFIG,
    NO_PASSWORD,
    OUR_RULES,
    OUTPUT,
    THEIR_RULES,
    Bad,
    MakeMac,
    Recorded,
    call_doctor,
    check_bad_state,
    out,
    recorded,
)

from pytest_xhyve.doctor import mac, vpn
from pytest_xhyve.doctor.programs import CommandResult, CommandRunner
from pytest_xhyve.model.errors import NotSupported, XhyveError

VPN_CASES: dict[str, Bad] = {
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


@pytest.mark.parametrize("case", VPN_CASES.values(), ids=VPN_CASES.keys())
def test_bad_state_of_vpn(make_mac: MakeMac, case: Bad) -> None:
    check_bad_state(make_mac, case)


def test_vpn_is_translated(make_mac: MakeMac) -> None:
    rules = vpn.rules_for(("utun0", "utun9"), IPv4Network("192.168.64.0/24"))
    changed = {IFCONFIG: recorded("ifconfig-vpn.txt"), OUR_RULES: out(rules), THEIR_RULES: out("")}
    (finding,) = mac.check_vpn(make_mac(changed))
    assert finding.level == "ok"


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
    without_guest = out(as_root[IFCONFIG].out.partition("bridge100")[0])
    # The settings tell only while no guest runs.
    for ifconfig, octets in ((without_guest, "70.0"), (as_root[IFCONFIG], "64.0")):
        programs = Recorded({**as_root, IFCONFIG: ifconfig})
        assert mend(programs, tmp_path, Dialogue(True), euid=0)
        assert programs.ran[2] == (LOAD.removeprefix("/usr/bin/sudo "), RULES.replace("64.0", octets))


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
    with pytest.raises(NotSupported, match="macOS's packet filter, but this is linux"):
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
            f"state is unknown.*\n.*-E\n.*{UNDO}",
            "",
        ),
        (
            {f"{PFCTL} -s info": DISABLED, f"{PFCTL} -E": CommandResult(1, "", "pfctl: no\n")},
            f"could not be enabled.*\n.*{UNDO}",
            "",
        ),
        ({f"{PFCTL} -s info": DISABLED, f"{PFCTL} -E": CommandResult(0)}, "could not be enabled: exit code 0", ""),
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
    assert "Run them? [y/N]" in result.output
    assert result.output.endswith("nothing was changed\n")
    assert len(on_a_mac.ran) == 1


@pytest.mark.parametrize(("arguments", "typed"), [([], "y\n"), (["--yes"], "")])
def test_command_mends(on_a_mac: Recorded, arguments: list[str], typed: str) -> None:
    result = call_doctor("--fix-vpn", *arguments, typed=typed)
    assert result.exit_code == 0
    assert (LOAD, RULES) in on_a_mac.ran
    assert ("Run them?" in result.output) == bool(typed)


def test_command_says_that_this_is_no_mac() -> None:
    result = call_doctor("--fix-vpn", "--yes")
    assert result.exit_code == 1
    assert result.output.startswith("Error: --fix-vpn changes macOS")
