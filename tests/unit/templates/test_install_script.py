"""The shell script that installs the agent in a guest, as far as a shell of this host can run it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pytest_xhyve.templates import identity

MAC = "52:54:00:aa:bb:cc"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_card_is_found_whatever_its_place(tmp_path: Path, place: int) -> None:
    for number in range(3):
        (tmp_path / f"eth{number}" / "device").mkdir(parents=True)
        (tmp_path / f"eth{number}" / "address").write_text(f"{MAC if number == place else '52:54:00:00:00:00'}\n")
    loop = identity._INSTALL[identity._INSTALL.index("for device in /sys/class/net/") :]
    script = loop.replace("/sys/class/net", str(tmp_path)).replace("MAC", MAC.upper())
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=10, check=True)
    assert done.stdout.split() == [str(tmp_path / f"eth{place}" / "address")]
