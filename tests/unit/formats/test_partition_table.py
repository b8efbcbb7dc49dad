from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from pytest_xhyve.formats.partition_table import HEAD_BYTES, read_partitions

PATH = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
GPT = "label: gpt\nstart=2048, size=2048, type=uefi\nsize=4096, type=linux\n"
DOS = "label: dos\nstart=2048, size=2048, type=82\nsize=4096, type=83, bootable\n"


def partitioned(path: Path, table: str) -> bytes:
    path.write_bytes(bytes(8 << 20))
    subprocess.run(["sfdisk", "-q", path], input=table, text=True, check=True, capture_output=True, env=PATH)
    return path.read_bytes()[:HEAD_BYTES]


@pytest.mark.parametrize(("table", "kind"), [(GPT, "gpt"), (DOS, "dos")])
def test_partitions_are_those_that_sfdisk_prints(tmp_path: Path, table: str, kind: str) -> None:
    disk = tmp_path / "disk.img"
    found = read_partitions(partitioned(disk, table))
    done = subprocess.run(["sfdisk", "--json", disk], check=True, capture_output=True, env=PATH)
    expected = json.loads(done.stdout)["partitiontable"]["partitions"]
    assert found is not None
    assert found[0] == kind
    assert [(each.number, each.start // 512, each.size // 512) for each in found[1]] == [
        (number, each["start"], each["size"]) for number, each in enumerate(expected, start=1)
    ]
    types = [each["type"].lower() if kind == "gpt" else f"0x{each['type']}" for each in expected]
    assert [each.type for each in found[1]] == types


def test_what_is_not_plain_is_not_read(tmp_path: Path) -> None:
    assert read_partitions(partitioned(tmp_path / "extended.img", "label: dos\nstart=2048, type=5\n")) is None
    head = partitioned(tmp_path / "gpt.img", GPT)
    assert read_partitions(head[:512] + bytes(HEAD_BYTES - 512)) is None
    assert read_partitions(bytes(510) + b"\x55\xaa" + bytes(HEAD_BYTES - 512)) is None
    assert read_partitions(bytes(HEAD_BYTES)) == ("", ())
