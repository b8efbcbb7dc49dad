"""bootpd's lease file: what it writes, what it never should, and what anybody else may have done to it."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_xhyve.host.leases import explain_no_lease, find_addresses, find_new, parse_leases, parse_mac, read_leases

MAC = bytes.fromhex("8e01999c54b1")
OTHER = bytes.fromhex("5e02030405ff")
NOW = 1_700_000_000


def record(
    address: str = "192.168.64.2",
    mac: bytes = MAC,
    *,
    name: str | None = "guest",
    lease: int = NOW + 86400,
    kind: str = "1",
    extra: str = "",
) -> str:
    """As bootpd writes it: tabs, octets without leading zeros, the name only where one was sent."""
    hardware = f"{kind}," + ":".join(f"{byte:x}" for byte in mac)
    named = "" if name is None else f"\tname={name}\n"
    return (
        f"{{\n{named}\tip_address={address}\n\thw_address={hardware}\n\tidentifier={hardware}\n"
        f"\tlease={lease:#x}\n{extra}}}\n"
    )


def find(content: str, mac: bytes = MAC) -> list[str]:
    return find_addresses(mac, parse_leases(content.encode()), NOW)


def test_macs_are_compared_as_bytes() -> None:
    for text in ("8e:1:99:9c:54:b1", "8E:01:99:9C:54:B1"):
        assert parse_mac(text) == MAC
    assert find(record()) == ["192.168.64.2"]
    assert find(record().replace("8e:1:99", "8E:01:99")) == ["192.168.64.2"]
    assert find(record(), OTHER) == []


@pytest.mark.parametrize("text", ["", "8e:1:99:9c:54", "8e:1:99:9c:54:b1:2", "8e:1:99:9c:54:100", "8e:1:99:9c:54:-1"])
def test_what_is_no_mac(text: str) -> None:
    with pytest.raises(ValueError, match="not an Ethernet address"):
        parse_mac(text)


def test_nameless_record() -> None:
    assert find(record(name=None)) == ["192.168.64.2"]


@pytest.mark.parametrize("name", ["", "a b", "a=b", "web-1", "{", "}", "ip_address=192.168.64.9"])
def test_any_name(name: str) -> None:
    assert find(record(name=name)) == ["192.168.64.2"]


def test_unknown_keys_blank_lines_and_spaces() -> None:
    content = "\n\n" + record(extra="\tdhcp_declined=1,2\n\n\tflag\n").replace("\t", "   ")
    assert find(content + "\n") == ["192.168.64.2"]


def test_expired_record_gives_no_address() -> None:
    assert find(record(lease=NOW - 1)) == []


def test_of_several_the_one_that_ends_last_comes_first() -> None:
    content = record("192.168.64.3", lease=NOW + 10) + record("192.168.64.4", lease=NOW + 20)
    assert find(record("192.168.64.2", lease=NOW - 10) + content) == ["192.168.64.4", "192.168.64.3"]


def test_address_belongs_to_the_record_that_was_used_last() -> None:
    content = record("192.168.64.2", OTHER) + record("192.168.64.2", MAC)
    assert find(content) == []
    assert find(content, OTHER) == ["192.168.64.2"]


def test_duid_and_other_hardware_have_no_mac() -> None:
    assert find(record(kind="ff")) == []
    assert find(record(kind="6")) == []
    assert [lease.mac for lease in parse_leases(record(kind="ff", mac=MAC * 3).encode())] == [None]


@pytest.mark.parametrize("address", ["", "192.168.64", "192.168.64.256", "nonsense", "::1"])
def test_record_without_an_address_is_passed_over(address: str) -> None:
    assert find(record(address) + record("192.168.64.7")) == ["192.168.64.7"]


def test_address_of_the_record_before_does_not_leak() -> None:
    without = record().replace("\tip_address=192.168.64.2\n", "")
    assert find(record("192.168.64.9", OTHER) + without) == []


def test_half_records_are_passed_over() -> None:
    whole = record()
    for end in range(1, len(whole) - 2):
        assert find(whole[:end]) == []
    assert find("\tip_address=192.168.64.9\n" + whole) == ["192.168.64.2"]
    assert find(whole[:-2] + record("192.168.64.3")) == ["192.168.64.3"]


def test_missing_file_is_empty(tmp_path: Path) -> None:
    assert read_leases(tmp_path / "no") == []


def test_file_that_is_replaced_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "dhcpd_leases"
    contents = ["".join(record(f"192.168.64.{n}") for n in range(2, last)) for last in (3, 200)]
    path.write_text(contents[0])
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for content in contents:
                fresh = path.with_name("dhcpd_leases-")
                fresh.write_text(content)
                fresh.replace(path)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        assert {len(read_leases(path)) for _ in range(500)} <= {1, 198}
    finally:
        stop.set()
        thread.join()


def test_what_is_new() -> None:
    before = parse_leases((record("192.168.64.2") + record("192.168.64.3", OTHER)).encode())
    renewed = record("192.168.64.3", OTHER, lease=NOW + 90000)
    after = parse_leases((renewed + record("192.168.64.2")).encode())
    assert [lease.mac for lease in find_new(before, after)] == [OTHER]


@given(st.binary(max_size=400))
def test_any_bytes_are_read(content: bytes) -> None:
    find_addresses(MAC, parse_leases(content), NOW)


records = st.lists(
    st.tuples(
        st.sampled_from(["192.168.64.2", "192.168.64.3", "192.168.64.4"]),
        st.sampled_from([MAC, OTHER]),
        st.sampled_from(["1", "6", "ff"]),
        st.integers(NOW - 2, NOW + 3),
    ),
    max_size=8,
)


@given(records)
def test_no_address_of_another_mac_is_ever_given(some: list[tuple[str, bytes, str, int]]) -> None:
    content = "".join(record(address, mac, kind=kind, lease=lease) for address, mac, kind, lease in some)
    first = {address: (mac, kind, lease) for address, mac, kind, lease in reversed(some)}
    for mac in (MAC, OTHER):
        mine = {address for address, (its, kind, lease) in first.items() if its == mac and kind == "1" and lease > NOW}
        assert set(find(content, mac)) == mine


@given(records, st.data())
def test_nor_of_a_damaged_file(some: list[tuple[str, bytes, str, int]], data: st.DataObject) -> None:
    content = "".join(record(address, mac, kind=kind, lease=lease) for address, mac, kind, lease in some)
    cut = data.draw(st.integers(0, len(content)))
    content = content[:cut] + content[data.draw(st.integers(cut, len(content))) :]
    for mac in (MAC, OTHER):
        hardware = "hw_address=1," + ":".join(f"{byte:x}" for byte in mac)
        for address in find(content, mac):
            between = re.findall(r"\{([^{}]*)\}", content)
            assert any(hardware in block and f"ip_address={address}\n" in block for block in between)


class TestExplanations:
    """Each way to end up without a lease has its own words and its own cure."""

    def explain(self, path: Path, before: str = "") -> str:
        return explain_no_lease(parse_leases(before.encode()), path, NOW)

    def test_no_file(self, tmp_path: Path) -> None:
        text = self.explain(tmp_path / "dhcpd_leases")
        assert "no guest ever got a lease" in text
        assert "socketfilterfw --add" in text
        assert "launchctl enable system/com.apple.bootpd" in text

    def test_no_record(self, tmp_path: Path) -> None:
        path = tmp_path / "dhcpd_leases"
        path.write_text(record(mac=OTHER))
        assert "has no lease for the guest" in self.explain(path, record(mac=OTHER))
        assert "--fix-vpn" in self.explain(path)

    def test_client_identifier(self, tmp_path: Path) -> None:
        path = tmp_path / "dhcpd_leases"
        path.write_text(record(kind="ff"))
        assert self.explain(path).startswith("a guest got a lease under a client identifier")
        # One that was there before may be another guest's, or this guest's of an earlier run.
        text = self.explain(path, record(kind="ff"))
        assert "has no lease for the guest" in text
        assert "if this image sends one too" in text
        path.write_text(record(kind="ff", lease=NOW - 1))
        assert "dhcp-identifier: mac" not in self.explain(path, record(kind="ff", lease=NOW - 1))

    def test_pool_exhausted(self, tmp_path: Path) -> None:
        path = tmp_path / "dhcpd_leases"
        full = "".join(record(f"192.168.64.{n}", os.urandom(6)) for n in range(2, 255))
        path.write_text(full)
        assert "all 253 addresses of 192.168.64.0/24 are leased" in self.explain(path, full)
        path.write_text(full.replace(f"lease={NOW + 86400:#x}", f"lease={NOW - 1:#x}", 1))
        assert "all 253" not in self.explain(path, full)

    def test_addresses_of_other_networks_fill_no_pool(self, tmp_path: Path) -> None:
        path = tmp_path / "dhcpd_leases"
        some = "".join(record(f"192.168.{net}.{n}", os.urandom(6)) for net in (64, 65) for n in range(2, 200))
        path.write_text(some)
        assert "all 253" not in self.explain(path, some)


DUID_LL, DUID_LLT = "0:0:0:1:0:3:0:1:", "12:34:56:78:0:1:0:1:2a:b:c:d:"
OURS = "8e:1:99:9c:54:b1"
# hw_address → whether the record is the guest's.
IDENTIFIERS = {
    "Ethernet": (f"1,{OURS}", True),
    "Ethernet, with zeros": ("1,8e:01:99:9c:54:b1", True),
    "DUID-LL, as dhcpcd sends on Debian 13": (f"ff,{DUID_LL}{OURS}", True),
    "DUID-LLT": (f"ff,{DUID_LLT}{OURS}", True),
    "DUID-LL of another": (f"ff,{DUID_LL}5e:2:3:4:5:ff", False),
    "DUID-LL of InfiniBand": (f"ff,0:0:0:1:0:3:0:20:{OURS}", False),
    "DUID-LL that is too long": (f"ff,{DUID_LL}1:2:{OURS}", False),
    "DUID-LLT without its time": (f"ff,0:0:0:1:0:1:0:1:{OURS}", False),
    # systemd-networkd's default, and so netplan's on Ubuntu 18.04.
    "DUID-EN": (f"ff,b5:5e:67:ff:0:2:0:0:ab:11:{OURS}", False),
    "DUID-UUID": (f"ff,0:0:0:1:0:4:1:2:3:4:5:6:7:8:9:a:{OURS}", False),
    "nothing but the kind": ("ff,", False),
    "another kind of hardware": (f"6,{OURS}", False),
    "type 0": (f"0,{OURS}", False),
}


@pytest.mark.parametrize(("hardware", "is_ours"), IDENTIFIERS.values(), ids=IDENTIFIERS.keys())
def test_identifiers(hardware: str, is_ours: bool) -> None:
    content = f"{{\n\tip_address=192.168.64.5\n\thw_address={hardware}\n\tlease={NOW + 9:#x}\n}}\n"
    assert find(content) == (["192.168.64.5"] if is_ours else [])
