"""The shell script that installs the agent in a guest, as far as a shell of this host can run it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pytest_xhyve.templates import identity

MAC = "52:54:00:aa:bb:cc"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_cards_are_found_whatever_their_place(tmp_path: Path, place: int) -> None:
    for number in range(3):
        (tmp_path / f"enP2p{number}" / "device").mkdir(parents=True)
        address = MAC.upper() if number == place else f"52:54:00:00:00:0{number}"
        (tmp_path / f"enP2p{number}" / "address").write_text(f"{address}\n")
    # A bridge has the address of a card.
    (tmp_path / "br0").mkdir()
    (tmp_path / "br0" / "address").write_text(f"{MAC}\n")
    loop = identity._INSTALL[identity._INSTALL.index("for device in /sys/class/net/") :]
    script = loop.replace("/sys/class/net", str(tmp_path))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=10, check=True)
    other = (place + 1) % 3
    found = identity._find_interfaces(done.stdout.splitlines(), [MAC, f"52:54:00:00:00:0{other}"])
    assert found == [f"enP2p{place}", f"enP2p{other}"]


def test_card_that_is_missing_is_named() -> None:
    with pytest.raises(identity.IdentityError, match=f"no network card has the address {MAC}"):
        identity._find_interfaces(["52:54:00:00:00:00 eth0", "nonsense", ""], [MAC])
