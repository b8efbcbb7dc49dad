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


def test_named_files_exist_and_have_what_is_named() -> None:
    for page in ("docs/architecture.md", "CONTRIBUTING.md"):
        text = (pages.TOP / page).read_text()
        names = re.findall(r"`((?:[\w-]+/)+[\w-]+\.\w+)`", text)
        assert names
        for name in (name for name in names if "NAME" not in name):
            assert (pages.TOP / name).is_file() or (pages.TOP / "pytest_xhyve" / name).is_file(), f"{page}: {name}"
    text = (pages.TOP / "docs" / "architecture.md").read_text()
    places = re.findall(r"`(?:\w+\.)?(\w+)` in `([\w/]+\.py)`", text)
    assert places
    for member, name in places:
        code = (pages.TOP / "pytest_xhyve" / name).read_text()
        assert re.search(rf"^\s*(?:def|class) {member}\b", code, re.MULTILINE), f"{name} does not define {member}"
