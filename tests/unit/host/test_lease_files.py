"""Lease files as they are found on Macs: which address each gives a guest, and what is reported if it gives none.

The forms are those of bootpd's sources (bootpd.tproj/dhcpd.c, bootplib/NICache.c), and of files in reports of Lima,
minikube, Multipass, tart and vfkit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_xhyve.host.leases import explain_no_lease, find_addresses, parse_leases, parse_mac

NOW = 1_700_000_000
LATER, SOONER, OVER = f"{NOW + 86400:#x}", f"{NOW + 3600:#x}", f"{NOW - 60:#x}"
# The guest's, and as vfkit has it on its command line.
MAC, WITH_ZEROS = "8e:1:99:9c:54:b1", "8e:01:99:9c:54:b1"
OTHER = "5e:2:3:4:5:ff"
# Those of systemd-networkd (vfkit#242), dhcpcd, dhclient, and of a guest that was cloned with its machine id.
DUID_EN = "ff,f1:f5:dd:7f:0:2:0:0:ab:11:b5:40:7c:3:e2:a9:8c:b3"
DUID_LL, DUID_LLT = "ff,99:9c:54:b1:0:3:0:1:", "ff,99:9c:54:b1:0:1:0:1:2e:1c:3a:9f:"
DUID_UUID = "ff,99:9c:54:b1:0:4:c0:31:b1:b4:3d:2:5a:7:b2:5d:13:ba:a0:ed:d1:43"


def record(
    hardware: str = f"1,{MAC}",
    address: str = "192.168.64.2",
    lease: str = LATER,
    *,
    name: str | None = "ubuntu",
    identifier: str | None = None,
) -> str:
    named = "" if name is None else f"\tname={name}\n"
    words = f"\tip_address={address}\n\thw_address={hardware}\n\tidentifier={identifier or hardware}\n\tlease={lease}\n"
    return f"{{\n{named}{words}}}\n"


ANOTHERS = record(f"1,{OTHER}", "192.168.64.3", name="other")
NO_LEASE, IDENTIFIER, FULL = "has no lease for the guest", "under a client identifier", "all 253 addresses"


@dataclass(frozen=True)
class File:
    """What a file contains, and what the plugin reads in it.

    Attributes:
        content: its text, or its bytes.
        addresses: the guest's, the best one first.
        reason: words of the message if there is none.
    """

    content: str | bytes
    addresses: Sequence[str] = ()
    reason: str = NO_LEASE


OURS = ("192.168.64.2",)
FILES: Mapping[str, File] = {
    # How bootpd writes a record.
    "one guest": File(record(), OURS),
    "no name": File(record(name=None), OURS),
    "empty name": File(record(name=""), OURS),
    "name with spaces": File(record(name="Ann's iPhone 15"), OURS),
    "name with an equals sign": File(record(name="a=b=c"), OURS),
    "name that opens a record": File(record(name="{"), OURS),
    "name that closes a record": File(record(name="}"), OURS),
    "name that looks like an address": File(record(name="ip_address=192.168.64.9"), OURS),
    "name whose line breaks bootpd replaced": File(record(name="a.\tip_address=192.168.64.9.}"), OURS),
    "name in UTF-8": File(record(name="Jürgens Mac"), OURS),
    "name in Latin-1": File(record(name="Jürgens Mac").encode("latin-1"), OURS),
    "name with half a character of UTF-8": File(record().encode().replace(b"ubuntu", b"ubunt\xc3"), OURS),
    "name with line separators of Unicode": File(record(name="a\u2028}\x85}\x0b}\x0c}\x1c}"), OURS),
    "name with a carriage return": File(record(name="a\r}"), OURS),
    "name with an escape sequence": File(record(name="\x1b[2J\x07"), OURS),
    "name of 64 KiB": File(record(name="x" * 65536), OURS),
    "octets with zeros": File(record(f"1,{WITH_ZEROS}"), OURS),
    "octets in capitals": File(record(f"1,{MAC.upper()}"), OURS),
    "identifier that is a text": File(record(identifier="0,75:62:75:6e:74:75"), OURS),
    "no identifier": File(record().replace(f"\tidentifier=1,{MAC}\n", ""), OURS),
    "keys in another order": File(f"{{\n\tlease={LATER}\n\thw_address=1,{MAC}\n\tip_address=192.168.64.2\n}}\n", OURS),
    "keys that are not known": File(record().replace("}", "\tdhcp_declined=1,2\n\tflag\n}"), OURS),
    "another network, of macOS 26": File(record(address="192.168.2.7"), ("192.168.2.7",)),
    "another network, of a company": File(record(address="10.200.0.2"), ("10.200.0.2",)),
    "three guests": File(ANOTHERS + record() + record("1,5e:2:3:4:6:1", "192.168.64.4"), OURS),
    "a phone by Internet Sharing": File(record("1,d0:3:4b:0:11:22", "192.168.2.2", name="iPhone") + record(), OURS),
    # When a lease ends.
    "expired": File(record(lease=OVER)),
    "given back": File(record(lease="0x0")),
    "without an end": File(record(lease="0xffffffff"), OURS),
    "no time": File(record().replace(f"\tlease={LATER}\n", ""), OURS),
    "time in decimal": File(record(lease=str(NOW)), OURS),
    "time that is a word": File(record(lease="infinite"), OURS),
    "time of 64 bits": File(record(lease="0xffffffffffffffff"), OURS),
    # Several records of one guest.
    "two leases": File(
        record(address="192.168.64.5", lease=SOONER) + record(lease=LATER), ("192.168.64.2", "192.168.64.5")
    ),
    "one of two has expired": File(record(address="192.168.64.5", lease=OVER) + record(), OURS),
    "the same record twice": File(record() + record(), OURS),
    "renewed": File(record(lease=LATER) + record(lease=SOONER), OURS),
    "expired in its first record": File(record(lease=OVER) + record(lease=LATER)),
    "address went to another guest": File(record(f"1,{OTHER}") + record()),
    "address came from another guest": File(record() + record(f"1,{OTHER}"), OURS),
    "address came from a guest with a DUID": File(record() + record(DUID_EN), OURS),
    "address went to a guest with a DUID": File(record(DUID_EN) + record(), reason=IDENTIFIER),
    # What stands for the hardware.
    "DUID-EN of systemd-networkd": File(record(DUID_EN), reason=IDENTIFIER),
    "DUID-UUID": File(record(DUID_UUID), reason=IDENTIFIER),
    "DUID-LL of dhcpcd": File(record(DUID_LL + MAC), OURS),
    "DUID-LLT of dhclient": File(record(DUID_LLT + MAC), OURS),
    "DUID-LL in capitals with zeros": File(record("FF,99:9C:54:B1:00:03:00:01:" + WITH_ZEROS.upper()), OURS),
    "DUID-LL of another guest": File(record(DUID_LL + OTHER)),
    "DUID-LLT of another guest": File(record(DUID_LLT + OTHER)),
    "DUID-LL of InfiniBand": File(record(f"ff,99:9c:54:b1:0:3:0:20:{MAC}"), reason=IDENTIFIER),
    "DUID-LLT without its time": File(record(f"ff,99:9c:54:b1:0:1:0:1:{MAC}"), reason=IDENTIFIER),
    "DUID-EN that ends as the guest's address": File(record(f"ff,b5:5e:67:ff:0:2:0:0:ab:11:{MAC}"), reason=IDENTIFIER),
    "DUID that is cut": File(record("ff,99:9c:54:b1:0:3"), reason=IDENTIFIER),
    "DUID that has no octet": File(record("ff,"), reason=IDENTIFIER),
    "DUID and Ethernet address": File(record(DUID_EN, "192.168.64.5") + record(), OURS),
    "hardware of type 0": File(record(f"0,{MAC}"), reason=IDENTIFIER),
    "hardware of type 6": File(record(f"6,{MAC}"), reason=IDENTIFIER),
    "hardware without a type": File(record(MAC), reason=IDENTIFIER),
    "hardware of eight octets": File(record(f"1,{MAC}:0:1"), reason=IDENTIFIER),
    "hardware of five octets": File(record(f"1,{MAC[:-3]}"), reason=IDENTIFIER),
    "hardware with dashes": File(record(f"1,{MAC.replace(':', '-')}"), reason=IDENTIFIER),
    "no hardware": File(record().replace(f"\thw_address=1,{MAC}\n", ""), reason=IDENTIFIER),
    # An address that is not one.
    "no address": File(record().replace("\tip_address=192.168.64.2\n", "")),
    "empty address": File(record(address="")),
    "address of three octets": File(record(address="192.168.64")),
    "address with a prefix": File(record(address="192.168.64.2/24")),
    "address with leading zeros": File(record(address="192.168.064.002")),
    "address of IPv6": File(record(address="fd00::2")),
    "a good record behind a bad one": File(record(address="none") + record(), OURS),
    # Lines as editors, archives and reports leave them.
    "CRLF": File((ANOTHERS + record()).replace("\n", "\r\n"), OURS),
    "carriage returns alone": File(record().replace("\n", "\r")),
    "no line break at the end": File(record().rstrip("\n"), OURS),
    "spaces for tabs": File(record().replace("\t", "        "), OURS),
    "spaces behind the values": File(record().replace("\n", " \t\n"), OURS),
    "not indented": File(record().replace("\t", ""), OURS),
    "blank lines": File(record().replace("\n", "\n\n"), OURS),
    "comments": File("# by hand\n" + record().replace("}", "# 192.168.64.9\n}"), OURS),
    # Damage.
    "empty": File(""),
    "a line break": File("\n"),
    "only braces": File("{\n}\n" * 3),
    "cut in the guest's record": File(ANOTHERS + record()[:-12]),
    "cut behind the guest's record": File(record() + ANOTHERS[:-12], OURS),
    "begins in the middle": File("\thw_address=1,1:2:3:4:5:6\n\tlease=0x0\n}\n" + record(), OURS),
    "closing brace is missing": File(ANOTHERS[:-2] + record(), OURS),
    "opening brace is missing": File(record()[2:]),
    "nested braces": File("{\n{\n" + record() + "}\n}\n", OURS),
    "braces in the lines of keys": File(record().replace("{\n\t", "{ ").replace("\n}", " }")),
    "zeros after a power cut": File(bytes(4096)),
    "zeros in front of the record": File(bytes(512) + record().encode()),
    "zeros behind the record": File(record().encode() + bytes(512), OURS),
    "binary": File(bytes(range(256)) * 16),
    "a property list": File("<?xml version='1.0'?><plist><dict><key>ip_address</key></dict></plist>\n"),
    "ISC's dhcpd.leases": File(f"lease 192.168.64.2 {{\n  hardware ethernet {WITH_ZEROS};\n}}\n"),
    # Many records.
    "all addresses are leased": File(
        "".join(record(f"1,2:0:0:0:0:{n:x}", f"192.168.64.{n}") for n in range(2, 255)), reason=FULL
    ),
    "all addresses are leased, and one is the guest's": File(
        "".join(record(f"1,2:0:0:0:0:{n:x}", f"192.168.64.{n}") for n in range(3, 255)) + record(), OURS
    ),
    "all addresses were leased": File(
        "".join(record(f"1,2:0:0:0:0:{n:x}", f"192.168.64.{n}", OVER) for n in range(2, 255))
    ),
}


@pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())
def test_address_or_reason(file: File, tmp_path: Path) -> None:
    content = file.content if isinstance(file.content, bytes) else file.content.encode()
    found = find_addresses(parse_mac(WITH_ZEROS), parse_leases(content), NOW)
    assert found == list(file.addresses)
    if not found:
        path = tmp_path / "dhcpd_leases"
        path.write_bytes(content)
        assert file.reason in explain_no_lease([], path, NOW)


def test_there_are_enough() -> None:
    assert len(FILES) >= 52
