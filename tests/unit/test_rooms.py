"""What the docs show of the package's rooms is what the code has."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pages
import pytest


def test_picture_is_up_to_date() -> None:
    pytest.importorskip("grimp")
    done = subprocess.run(
        [sys.executable, "tools/draw_rooms.py", "--check"], cwd=pages.TOP, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_room_is_described() -> None:
    contracts = tomllib.loads((pages.TOP / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["id"] == "rooms")
    rooms = re.findall(r"\w+", " ".join(layers))
    text = (pages.TOP / "docs" / "architecture.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == rooms


def test_picture_names_every_room() -> None:
    text = (pages.TOP / "docs" / "rooms.svg").read_text()
    for folder in (pages.TOP / "pytest_xhyve").iterdir():
        if (folder / "__init__.py").is_file():
            assert f">{folder.name}</text>" in text
