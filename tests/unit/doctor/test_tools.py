"""The doctor's checks of the programs that images and SSH need, and how the doctor runs programs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mac_answers import Recorded

from pytest_xhyve.doctor import tools
from pytest_xhyve.doctor.programs import CommandResult, CommandRunner


def test_ssh_client() -> None:
    assert [finding.level for finding in tools.check_ssh("linux", Recorded({}, {"ssh": "/usr/bin/ssh"}))] == ["ok"]
    [finding] = tools.check_ssh("linux", Recorded({}))
    assert (finding.level, finding.fix) == ("warning", "sudo apt install openssh-client")
    assert "pytest-xhyve run and shell need it" in finding.detail
    [finding] = tools.check_ssh("darwin", Recorded({}))
    assert "/usr/bin" in finding.fix
    # Guests run without it.
    assert finding.blocks == frozenset()


def test_tools_to_build_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert [finding.level for finding in tools.check_building()] == ["ok"]
    monkeypatch.setenv("PATH", str(tmp_path))
    [finding] = tools.check_building()
    assert finding.level == "warning"
    assert finding.detail.startswith("mmdebstrap, ")
    assert "fakeroot" not in finding.detail
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    [finding] = tools.check_building()
    assert "fakeroot, newuidmap not found" in finding.detail
    assert "mmdebstrap" in finding.fix


def test_programs_are_run_without_a_shell() -> None:
    programs = CommandRunner()
    assert programs.run(["cat"], stdin="$HOME; *") == CommandResult(0, "$HOME; *", "")
    assert programs.run(["echo", "$HOME"]).out == "$HOME\n"
    assert programs.run(["sh", "-c", "echo no >&2; kill -9 $$"]) == CommandResult(-9, "", "no\n")
    assert programs.run(["/no/such/program"]) == CommandResult(None, "", "/no/such/program: No such file or directory")
    assert "did not end within 0.1 s" in programs.run(["sleep", "60"], timeout=0.1).err
    assert programs.find("sh") is not None
    assert programs.find("no-such-program") is None
