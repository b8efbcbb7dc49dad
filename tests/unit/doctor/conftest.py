"""What the doctor's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mac_answers import GOOD, NOW, XHYVE, MakeMac, Recorded

from pytest_xhyve.doctor.mac import Mac
from pytest_xhyve.doctor.programs import CommandResult


@pytest.fixture
def make_mac(tmp_path: Path) -> MakeMac:
    def make(
        changed: dict[str, CommandResult] | None = None,
        *,
        found: str | None = XHYVE,
        vfkit: str | None = None,
        mode: int = 0o100755,
        owner: int = 501,
        euid: int = 501,
    ) -> Mac:
        return Mac(
            Recorded(
                {**GOOD, **(changed or {})},
                {name: path for name, path in (("xhyve", found), ("vfkit", vfkit)) if path is not None},
            ),
            folder=Path("/Users/me"),
            euid=euid,
            user="me",
            leases=tmp_path / "leases",
            vmnet=tmp_path / "vmnet.plist",
            stat=lambda _: os.stat_result((mode, 0, 0, 1, owner, 20, 0, 0, 0, 0)),
            now=lambda: NOW,
        )

    return make


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
