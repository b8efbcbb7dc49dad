"""The ARP table, as macOS and Linux print it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_xhyve.host.arp import find_addresses, read_table

MAC = bytes.fromhex("8e01999c54b1")
# The form is that of cirruslabs/tart's and of canonical/multipass's reports.
MACOS = """? (192.168.64.2) at 8e:1:99:9c:54:b1 on bridge100 ifscope [bridge]
? (192.168.64.3) at 5e:2:3:4:5:ff on bridge100 ifscope [bridge]
? (192.168.64.4) at (incomplete) on bridge100 ifscope [bridge]
? (192.168.64.255) at ff:ff:ff:ff:ff:ff on bridge100 ifscope [bridge]
mac.local (192.168.1.7) at 8e:1:99:9c:54:b1 on en0 ifscope permanent [ethernet]
? (169.254.1.1) at 8e:1:99:9c:54 on en0 [ethernet]
"""
LINUX = "? (192.168.64.2) at 8e:01:99:9c:54:b1 [ether] on bridge100\n? (192.168.64.4) at <incomplete> on bridge100\n"


def test_macos() -> None:
    assert find_addresses(MAC, MACOS) == ["192.168.64.2", "192.168.1.7"]
    assert find_addresses(bytes(6), MACOS) == []


def test_linux() -> None:
    assert find_addresses(MAC, LINUX) == ["192.168.64.2"]
    assert find_addresses(MAC, "") == []


@pytest.mark.parametrize("script", [None, "exit 1", "kill -9 $$"])
def test_program_that_fails_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> None:
    program = tmp_path / "arp"
    program.write_text(f"#!/bin/sh\n{script}\n" if script else "no program")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert read_table() == ""


def test_program_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "arp"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert read_table() == "-an\n"
