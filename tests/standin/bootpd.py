"""The writer of /var/db/dhcpd_leases, as macOS's bootpd is (dhcpd.c, NICache.c and host_identifier.c in its sources).

dnsmasq gives the addresses. For each that it gives, renews or takes back it runs a script, which only passes the event
on, as dnsmasq waits for it. A `Writer` takes it from there.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from standin.faults import Faults, LeaseStyle
from standin.interpreter import shebang

LEASE_SECONDS = 86400
_LARGEST_EVENT = 65536
_SCRIPT = """{shebang}
import json, os, socket, sys
told = {{name: value for name, value in os.environ.items() if name.startswith("DNSMASQ_")}}
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as events:
    events.sendto(json.dumps([sys.argv[1:], told]).encode(), {address!r})
"""

# In the records of the style "duplicate".
_EXPIRED_ADDRESS = "192.168.64.253"
_OTHER_NETWORK = "192.168.65.9"
_HOUR = 3600

# Interface 1, a DUID of type "vendor" (RFC 4361, RFC 8415): what systemd-networkd sends, but for the machine's part.
_DUID = "0:0:0:1:0:2:0:0:ab:11"
# The same of type "link-layer", for Ethernet: what dhcpcd sends.
_DUID_LL = "0:0:0:1:0:3:0:1"


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to an address.

    Attributes:
        address: that address.
        mac: of the client, as ``aa:0b:…``.
        identifier: what the client sent as option 61, with its type as the first octet; empty if nothing.
        name: what it sent as option 12, None if nothing.
        expiry: seconds since the epoch.
    """

    kind: Literal["given", "returned"]
    address: str
    mac: str
    identifier: str
    name: str | None
    expiry: int

    @classmethod
    def of_script(cls, arguments: list[str], environment: Mapping[str, str], now: float) -> Event | None:
        """What dnsmasq told its script (dnsmasq(8), --dhcp-script); None if it is of no interest."""
        verb, mac, address, *_ = arguments
        expiry = int(now) if verb == "del" else int(environment.get("DNSMASQ_LEASE_EXPIRES", "0"))
        # "old" is a renewal, if it is about a client's request; else it is what dnsmasq knows when it starts.
        is_renewed = verb == "old" and "DNSMASQ_REQUESTED_OPTIONS" in environment
        # An event of its own tells that a client has dropped its name, besides the one that is of interest here.
        is_about_name = "DNSMASQ_OLD_HOSTNAME" in environment
        if is_about_name or (verb not in {"add", "del"} and not is_renewed):
            return None
        return cls(
            kind="returned" if verb == "del" else "given",
            address=address,
            mac=mac,
            identifier=environment.get("DNSMASQ_CLIENT_ID", ""),
            name=environment.get("DNSMASQ_SUPPLIED_HOSTNAME"),
            expiry=expiry,
        )


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the file; a value of None is a key without one."""

    fields: tuple[tuple[str, str | None], ...]

    @classmethod
    def of_event(cls, event: Event) -> Record:
        """The record of an address; what the client calls itself stands for its hardware, unless that has type 0."""
        hardware = _octets("01:" + event.mac)
        identifier = _octets(event.identifier) if event.identifier else hardware
        name = () if event.name is None else (("name", _in_one_line(event.name)),)
        return cls(
            (
                *name,
                ("ip_address", event.address),
                ("hw_address", hardware if identifier.startswith("0,") else identifier),
                ("identifier", identifier),
                ("lease", f"{event.expiry:#x}"),
            )
        )

    def get(self, key: str) -> str | None:
        return dict(self.fields).get(key)

    def with_fields(self, **changed: str) -> Record:
        return Record(tuple((key, changed.get(key, value)) for key, value in self.fields))

    def without(self, key: str) -> Record:
        return Record(tuple(field for field in self.fields if field[0] != key))

    def text(self) -> str:
        lines = [f"\t{key}\n" if value is None else f"\t{key}={value}\n" for key, value in self.fields]
        return "{\n" + "".join(lines) + "}\n"


def read_records(path: Path) -> list[Record]:
    """The records in the file, from its head; none where there is no file."""
    try:
        text = path.read_text(errors="surrogateescape")
    except FileNotFoundError:
        return []
    records: list[Record] = []
    fields: list[tuple[str, str | None]] = []
    for line in text.split("\n"):
        word = line.strip(" \t")
        if word == "{":
            fields = []
        elif word == "}":
            records.append(Record(tuple(fields)))
        elif word:
            key, equals, value = word.partition("=")
            fields.append((key, value if equals else None))
    return records


def write_records(path: Path, records: list[Record]) -> None:
    """Replace the file, so that a reader sees the old one or the new one, and never a part."""
    new = path.with_name(path.name + "-")
    new.write_text("".join(record.text() for record in records), errors="surrogateescape")
    new.chmod(0o644)
    new.replace(path)


def record_event(path: Path, event: Event, style: LeaseStyle) -> None:
    """Bring the file up to date."""
    if style == "never":
        return
    if style == "duid":
        # As a hash of the machine's id would be, it tells nothing of the MAC.
        event = replace(event, identifier=f"ff:{_DUID}:{':'.join(reversed(event.mac.split(':')))}")
    if style == "duid-ll":
        event = replace(event, identifier=f"ff:{_DUID_LL}:{event.mac}")
    record = Record.of_event(event)
    old = read_records(path)
    same = [there for there in old if _is_same(there, record)]
    if event.name is None and same:  # a name stays until there is another
        record = Record((*(field for field in same[0].fields if field[0] == "name"), *record.fields))
    if style == "nameless":
        record = record.without("name")
    if event.kind == "returned":
        # It stays where it is, expired.
        write_records(
            path, [there.with_fields(lease=f"{event.expiry:#x}") if there in same else there for there in old]
        )
        return
    new = [record]
    if style == "duplicate":
        expired = record.with_fields(ip_address=_EXPIRED_ADDRESS, lease=f"{int(time.time()) - _HOUR:#x}")
        elsewhere = record.with_fields(ip_address=_OTHER_NETWORK, lease=f"{event.expiry - _HOUR:#x}")
        new = [expired, record, elsewhere]
    write_records(path, [*new, *(there for there in old if not any(_is_same(there, one) for one in new))])


class Writer:
    """A thread that writes what dnsmasq does, each time a while after it was done.

    Args:
        path: the file.
        script: where to write the program that dnsmasq is to run.
        faults: tells what goes wrong now.
    """

    def __init__(self, path: Path, script: Path, faults: Callable[[], Faults]) -> None:
        self._path = path
        self._faults = faults
        # In Linux's abstract namespace, which a network namespace has of its own: no path can be too long for it.
        self._events = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._events.bind(f"\0bootpd-{os.getpid()}-{id(self)}")
        address = self._events.getsockname()
        script.write_text(_SCRIPT.format(shebang=shebang(), address=address))
        script.chmod(0o755)
        self._end, self._ended = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="bootpd", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end.close()
        self._thread.join()
        self._ended.close()
        self._events.close()

    def _run(self) -> None:
        waiting: list[tuple[float, int, Event, LeaseStyle]] = []
        numbers = itertools.count()
        while True:
            timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            ready, _, _ = select.select([self._events, self._ended], [], [], timeout)
            if self._ended in ready:
                return
            if self._events in ready:
                arguments, environment = json.loads(self._events.recv(_LARGEST_EVENT))
                event = Event.of_script(arguments, environment, time.time())
                faults = self._faults()
                if event is not None:
                    due = time.monotonic() + faults.lease_delay
                    heapq.heappush(waiting, (due, next(numbers), event, faults.lease_style))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, event, style = heapq.heappop(waiting)
                record_event(self._path, event, style)


def _is_same(one: Record, other: Record) -> bool:
    return all(one.get(key) == other.get(key) for key in ("identifier", "ip_address"))


def _octets(text: str) -> str:
    """``01:0a:bc`` as bootpd writes it: ``1,a:bc``."""
    kind, *octets = (f"{int(octet, 16):x}" for octet in text.split(":"))
    return f"{kind},{':'.join(octets)}"


def _in_one_line(name: str) -> str:
    return name.replace("\0", ".").replace("\n", ".")
