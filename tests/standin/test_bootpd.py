"""What bootpd writes, for what DHCP clients send."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from waiting import becomes

from standin.bootpd import Record, read_records
from standin.conftest import Start
from standin.mac import Mac
from standin.running import Console

# All that a network needs, as the initial RAM disk has it.
SET_UP = "for m in $(busybox cat /modules); do busybox insmod $m; done; busybox ip link set eth0 up"


@dataclass(frozen=True)
class Client:
    """A guest's DHCP client; *hardware* is its MAC as the lease file has it."""

    console: Console
    hardware: str

    def ask(self, options: str) -> str:
        """Ask for an address, which nobody then uses, and return what the client said."""
        return self.console.run(f"busybox udhcpc -i eth0 -s /bin/true -n -q -t 3 -T 1 {options} 2>&1")

    def owns(self, record: Record) -> bool:
        return record.get("hw_address") == self.hardware


@pytest.fixture(scope="module")
def client(start_for_module: Start, kernel: Callable[..., list[str]]) -> Client:
    uuid = "0fbb1f1a-1c0d-4bb0-8a21-2d7a6ac0e0b1"
    running = start_for_module("-U", uuid, "-s", "2,virtio-net", "-l", "com1,stdio", *kernel())
    running.console.run("busybox mount -t sysfs none /sys")
    running.console.run(SET_UP)
    mac = running.console.run("busybox cat /sys/class/net/eth0/address").strip()
    return Client(running.console, "1," + ":".join(f"{int(octet, 16):x}" for octet in mac.split(":")))


@pytest.fixture
def leases(mac: Mac) -> Iterator[Path]:
    """The lease file, which is not there as long as nobody was given an address."""
    mac.leases.unlink(missing_ok=True)
    yield mac.leases
    mac.leases.unlink(missing_ok=True)


def is_recorded(leases: Path, count: int = 1) -> bool:
    return becomes(lambda: len(read_records(leases)) >= count, 10)


def test_name_is_what_was_sent(client: Client, leases: Path, behave: Callable[..., None]) -> None:
    behave()
    client.ask("-x hostname:one-guest")
    assert is_recorded(leases)
    assert read_records(leases)[0].get("name") == "one-guest"


def test_client_without_identifier(client: Client, leases: Path, behave: Callable[..., None]) -> None:
    """Before the others: a client without one is later taken for another with its MAC that had one."""
    behave()
    client.ask("-C")
    assert is_recorded(leases)
    (record,) = read_records(leases)
    assert client.owns(record)
    assert record.get("identifier") == record.get("hw_address")


def test_no_name_if_none_was_sent(client: Client, leases: Path, behave: Callable[..., None]) -> None:
    behave()
    client.ask("-C -x 0x3d:0102000000000c")
    assert is_recorded(leases)
    (record,) = read_records(leases)
    assert [key for key, _ in record.fields] == ["ip_address", "hw_address", "identifier", "lease"]
    assert record.get("hw_address") == "1,2:0:0:0:0:c"


def test_client_with_a_duid(client: Client, leases: Path, behave: Callable[..., None]) -> None:
    """It has another address, and its MAC is nowhere."""
    behave()
    client.ask("-C -x 0x3d:ff00000001000200000a0b")
    assert is_recorded(leases)
    (record,) = read_records(leases)
    assert record.get("hw_address") == record.get("identifier") == "ff,0:0:0:1:0:2:0:0:a:b"


def test_client_with_an_identifier_of_type_0(client: Client, leases: Path, behave: Callable[..., None]) -> None:
    behave()
    client.ask("-C -x 0x3d:00610a")
    assert is_recorded(leases)
    (record,) = read_records(leases)
    assert client.owns(record)
    assert record.get("identifier") == "0,61:a"


def test_renewed_record_moves_to_the_head(client: Client, leases: Path, behave: Callable[..., None]) -> None:
    """The others are kept, expired or not, with all that they have."""
    behave()
    client.ask("")
    assert is_recorded(leases)
    (ours,) = read_records(leases)
    other = "{\n\tname=a=b c\n\tip_address=192.168.64.99\n\thw_address=1,2:0:0:0:0:1\n\tlease=0x5\n\tflag\n}\n"
    leases.write_text(other + ours.with_fields(lease="0x1").text())
    time.sleep(1)  # so that the renewed one expires at another second
    client.ask("")
    assert becomes(lambda: leases.read_text().endswith(other), 10)
    head, rest = read_records(leases)
    assert head.get("ip_address") == ours.get("ip_address")
    assert head.get("lease") != "0x1"
    assert rest.text() == other


def test_record_comes_after_the_address(client: Client, leases: Path, behave: Callable[..., None]) -> None:
    behave(lease_delay=0.7)
    client.ask("")
    asked = time.monotonic()
    assert not leases.exists()
    assert is_recorded(leases)
    assert time.monotonic() - asked > 0.4


@pytest.mark.parametrize("style", ["never", "silent"])
def test_no_record(client: Client, leases: Path, behave: Callable[..., None], style: str) -> None:
    behave(lease_style=style)
    said = client.ask("")
    assert ("lease of 192.168.64." in said) == (style == "never"), said
    assert not becomes(leases.exists, 0.5)
    behave()
    assert "lease of 192.168.64." in client.ask("")
    assert is_recorded(leases)


def test_record_without_name(client: Client, leases: Path, behave: Callable[..., None]) -> None:
    behave(lease_style="nameless")
    client.ask("-x hostname:one-guest")
    assert is_recorded(leases)
    assert read_records(leases)[0].get("name") is None


def test_record_as_if_of_a_duid(client: Client, leases: Path, behave: Callable[..., None]) -> None:
    behave(lease_style="duid")
    client.ask("")
    assert is_recorded(leases)
    (record,) = read_records(leases)
    assert not client.owns(record)
    assert record.get("hw_address") == record.get("identifier")
    assert (record.get("hw_address") or "").startswith("ff,")


def test_several_records(client: Client, leases: Path, behave: Callable[..., None]) -> None:
    """The first is expired; of the others, the one that is good for longest is the guest's."""
    behave(lease_style="duplicate")
    said = client.ask("")
    assert is_recorded(leases, 3)
    records = read_records(leases)
    assert all(client.owns(record) for record in records)
    expiry = [int(record.get("lease") or "", 16) for record in records]
    assert expiry[0] < time.time()
    newest = records[expiry.index(max(expiry))]
    assert f"lease of {newest.get('ip_address')} obtained" in said
