"""The host's ARP table: which IPv4 address belongs to an Ethernet address.

macOS's arp(8) prints ``? (192.168.64.2) at 8e:1:99:9c:54:b1 on bridge100 ifscope [bridge]``, with octets as in bootpd's
file; Linux's prints ``? (192.168.64.2) at 8e:01:99:9c:54:b1 [ether] on bridge100``. An address that did not answer is
``(incomplete)``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from pytest_xhyve.host.leases import parse_mac
from pytest_xhyve.host.processes import run_program

_SECONDS = 5.0
_ENTRY = re.compile(r"\((\d+\.\d+\.\d+\.\d+)\) at ([0-9a-fA-F:]+) ")


def read_table() -> str:
    """The output of ``arp -an``; empty if the program is missing or fails."""
    # A user's PATH may lack the folder for the administrator's programs.
    program = shutil.which("arp", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        return ""
    try:
        return run_program([program, "-an"], timeout=_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def find_addresses(mac: bytes, table: str) -> list[str]:
    """The addresses of *mac* in the output of ``arp -an``, in its order."""
    found = []
    for line in table.splitlines():
        match = _ENTRY.search(line)
        if match is None:
            continue
        try:
            its = parse_mac(match[2])
        except ValueError:
            continue
        if its == mac:
            found.append(match[1])
    return found
