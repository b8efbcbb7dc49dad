"""Extended partitions, read back by sfdisk(8)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pytest_xhyve.formats.partition_growth import HEAD_SECTORS, SECTOR, CannotExtend, extend_partition

PATH = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
MIB = 1 << 20
OLD, NEW = 64 * MIB, 256 * MIB


def sfdisk(*arguments: str, script: str = "") -> str:
    done = subprocess.run(
        ["sfdisk", *arguments], input=script, check=True, capture_output=True, text=True, env=os.environ | PATH
    )
    return done.stdout


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(OLD)
    return path


def partitions(disk: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(sfdisk("--json", str(disk)))["partitiontable"]["partitions"]
    return found


def extend(disk: Path, number: int, size: int = NEW) -> int:
    """Make the disk larger and extend the partition; the number of its sectors."""
    os.truncate(disk, size)
    with disk.open("r+b") as file:
        extension = extend_partition(file.read(HEAD_SECTORS * SECTOR), number, size // SECTOR)
        for at, content in extension.writes:
            file.seek(at * SECTOR)
            file.write(content)
    assert disk.stat().st_size == size
    return extension.sectors


@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_last_partition_extends_to_the_end(disk: Path, label: str) -> None:
    # A GPT's partitions may be in any order on the disk.
    script = "start=32768, size=32768\nstart=2048, size=30720\n" if label == "gpt" else "size=16M\nsize=+\n"
    sfdisk("--label", label, str(disk), script=script)
    before = partitions(disk)
    last, first = (0, 1) if label == "gpt" else (1, 0)
    sectors = extend(disk, last + 1)
    after = partitions(disk)
    assert after[first] == before[first]
    assert after[last] == before[last] | {"size": sectors}
    assert (after[last]["start"] + sectors) * SECTOR > NEW - 2 * MIB
    assert "No errors detected" in sfdisk("--verify", str(disk))


def test_copy_of_the_gpt_moves_to_the_end(disk: Path) -> None:
    sfdisk("--label", "gpt", str(disk), script="size=16M\nsize=+\n")
    extend(disk, 2)
    after = partitions(disk)
    # Without the table at the front, sfdisk takes the copy at the end.
    with disk.open("r+b") as file:
        file.seek(SECTOR)
        file.write(bytes(33 * SECTOR))
    assert partitions(disk) == after


@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_disk_of_the_same_size_stays(disk: Path, label: str) -> None:
    sfdisk("--label", label, str(disk), script="size=16M\nsize=+\n")
    before = partitions(disk)
    extend(disk, 2, OLD)
    assert partitions(disk)[0] == before[0]
    assert partitions(disk)[1]["size"] >= before[1]["size"]
    assert "No errors detected" in sfdisk("--verify", str(disk))


@pytest.mark.parametrize(
    ("script", "number", "reason"),
    [
        ("label: dos\nsize=16M\nsize=+\n", 1, "another partition follows partition 1"),
        ("label: gpt\nsize=16M\nsize=+\n", 1, "another partition follows partition 1"),
        ("label: gpt\nsize=16M\nsize=+\n", 3, "has no partition 3"),
        ("label: dos\nsize=16M, type=E\nsize=16M, type=L\nsize=8M, type=L\n", 5, "not a primary partition"),
        ("label: dos\nsize=16M\n", 2, "not a primary partition"),
    ],
)
def test_partition_that_cannot_be_extended(disk: Path, script: str, number: int, reason: str) -> None:
    sfdisk(str(disk), script=script)
    with pytest.raises(CannotExtend, match=reason):
        extend(disk, number)


def test_disk_without_a_table(disk: Path) -> None:
    with pytest.raises(CannotExtend, match="no partition table"):
        extend(disk, 1)


@pytest.mark.parametrize("at", [SECTOR + 40, 2 * SECTOR + 40], ids=["header", "entries"])
def test_damaged_gpt(disk: Path, at: int) -> None:
    sfdisk("--label", "gpt", str(disk), script="size=16M\nsize=+\n")
    with disk.open("r+b") as file:
        file.seek(at)
        file.write(b"\x55")
    with pytest.raises(CannotExtend, match="damaged"):
        extend(disk, 2)
