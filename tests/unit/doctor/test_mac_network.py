"""The doctor's checks of a Mac's network: vmnet, DHCP server, firewall, leases."""

from __future__ import annotations

import plistlib

import pytest
from mac_answers import (
    ALLOW_SIGNED,
    BLOCK_ALL,
    BLOCKS_ALL,
    FIREWALL,
    FIREWALL_OFF,
    GLOBAL_STATE,
    IFCONFIG,
    LIST_APPS,
    NO_PASSWORD,
    NOW,
    OUR_RULES,
    OUTPUT,
    PRINT_DISABLED,
    SIGNED_NOT_ALLOWED,
    SW_VERS,
    THEIR_RULES,
    Bad,
    MakeMac,
    assert_can_be_pasted,
    check_bad_state,
    out,
    recorded,
)

from pytest_xhyve.doctor import mac, vpn
from pytest_xhyve.doctor.findings import Finding
from pytest_xhyve.doctor.programs import CommandResult

NETWORK_CASES: dict[str, Bad] = {
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
    "firewall blocks what macOS brings": (
        "firewall",
        {ALLOW_SIGNED: SIGNED_NOT_ALLOWED},
        "blocks macOS's own programs",
        "--add",
        True,
    ),
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
}


@pytest.mark.parametrize("case", NETWORK_CASES.values(), ids=NETWORK_CASES.keys())
def test_bad_state_of_network(make_mac: MakeMac, case: Bad) -> None:
    check_bad_state(make_mac, case)


# As macOS 26 has it (canonical/multipass#4581), while no plist says so.
TAHOES_BRIDGE = (
    "en0: flags=8863<UP,BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST> mtu 1500\n"
    "\tinet 192.168.1.7 netmask 0xffffff00 broadcast 192.168.1.255\n"
    "bridge100: flags=8a63<UP,BROADCAST,SMART,RUNNING,ALLMULTI,SIMPLEX,MULTICAST> mtu 1500\n"
    "\tinet 192.168.2.1 netmask 0xffffff00 broadcast 192.168.2.255\n"
)


def test_bridge_is_believed_before_the_settings(make_mac: MakeMac) -> None:
    this_mac = make_mac({IFCONFIG: out(TAHOES_BRIDGE), SW_VERS: out("26.1\n")})
    this_mac.vmnet.write_bytes(plistlib.dumps({"Shared_Net_Address": "192.168.70.1"}))
    (finding,) = mac.check_vmnet(this_mac)
    assert finding == Finding("vmnet", "ok", "guests are in 192.168.2.0/24 (bridge100)")
    # The addresses of the other network do not fill this one.
    records = "".join(
        f"{{\n\tip_address=192.168.{third}.{last}\n"
        f"\thw_address=1,8e:1:9:9c:{third:x}:{last:x}\n\tlease={NOW + 1:#x}\n}}\n"
        for third, count in ((70, 255), (2, 12))
        for last in range(2, count)
    )
    this_mac.leases.write_text(records)
    (finding,) = mac.check_leases(this_mac)
    assert finding.detail == "243 of 253 addresses are free"


def test_no_guest_runs_on_macos_26(make_mac: MakeMac) -> None:
    (finding,) = mac.check_vmnet(make_mac({SW_VERS: out("26.1\n")}))
    assert finding.level == "ok"
    assert "at the start of the first" in finding.detail


@pytest.mark.parametrize(("version", "fix"), [("15.3", "defaults write"), ("26.1", "ifconfig en0")])
def test_network_that_the_mac_has_already(make_mac: MakeMac, version: str, fix: str) -> None:
    taken = TAHOES_BRIDGE.replace("192.168.1.7", "192.168.64.7").partition("bridge100")[0]
    this_mac = make_mac({IFCONFIG: out(taken), SW_VERS: out(f"{version}\n")})
    (finding,) = mac.check_vmnet(this_mac)
    assert finding.level == "warning"
    assert "192.168.64.0/24 overlaps 192.168.64.0/24, which this Mac has on en0" in finding.detail
    assert fix in finding.fix
    assert_can_be_pasted(finding)


@pytest.mark.parametrize(
    ("version", "euid", "words"),
    [("14.7", 501, "has none"), ("15.3", 501, "System Settings"), ("26.1", 0, "root"), ("?", 501, "System Settings")],
)
def test_local_network_privacy(make_mac: MakeMac, version: str, euid: int, words: str) -> None:
    (finding,) = mac.check_local_network(make_mac({SW_VERS: out(version)}, euid=euid))
    assert words in finding.detail


@pytest.mark.parametrize("kind", [plistlib.FMT_XML, plistlib.FMT_BINARY])
def test_vmnets_settings(make_mac: MakeMac, kind: plistlib.PlistFormat) -> None:
    this_mac = make_mac()
    (finding,) = mac.check_vmnet(this_mac)
    assert finding.detail == "not used on this Mac yet; guests will be in 192.168.64.0/24"
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
    assert "is damaged" in finding.detail
    assert_can_be_pasted(finding)


def test_firewall_off(make_mac: MakeMac) -> None:
    assert list(mac.check_firewall(make_mac({GLOBAL_STATE: FIREWALL_OFF}))) == [Finding("firewall", "ok", "off")]


@pytest.mark.parametrize("version", ["13.4", "15.3"])
def test_firewall_lets_bootpd_through(make_mac: MakeMac, version: str) -> None:
    changed = {SW_VERS: out(version), LIST_APPS: recorded("listapps-old-allowed.txt")}
    (finding,) = mac.check_firewall(make_mac(changed))
    assert finding == Finding("firewall", "ok", "it permits bootpd")


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
    assert f"{253 - live} of 253" in finding.detail
    assert finding.blocks == ({"vfkit", "xhyve"} if level == "problem" else set())
    if level != "ok":
        assert f"sudo rm {this_mac.leases}" in finding.fix
        assert "kickstart" in finding.fix
        assert_can_be_pasted(finding)
