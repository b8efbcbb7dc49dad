"""vfkit's published command lines: the stand-in takes or refuses each as vfkit's own parser does."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from standin.vfkit.flags import Ended, parse_flags
from standin.vfkit.machine import read_configuration
from standin.vfkit.rest import socket_path

LINES = Path(__file__).with_name("published_vfkit_lines.txt").read_text().splitlines()
PUBLISHED = [
    (line, following.removeprefix("! ") if following.startswith("!") else None)
    for line, following in zip(LINES, [*LINES[1:], ""], strict=True)
    if line and line[0] not in "#@!"
]


def test_there_are_enough() -> None:
    assert len(PUBLISHED) >= 40
    assert sum(line.startswith("@") for line in LINES) >= 10


@pytest.mark.parametrize(("line", "error"), PUBLISHED)
def test_is_taken_or_refused(line: str, error: str | None, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(4))
    _, *words = shlex.split(line.replace("{disk}", str(tmp_path / "raw")))
    if error is None:
        flags = parse_flags(words)
        bootloader, devices = read_configuration(flags)
        socket_path(flags.restful_uri)
        assert bootloader.kind in line
        assert len(devices) == line.count("--device")
        return
    with pytest.raises(Ended) as ended:
        read_configuration(parse_flags(words))
    assert ended.value.code == 1
    assert ended.value.stderr.startswith(f"Error: {error}\nUsage:\n  vfkit [flags]\n")
    assert ended.value.stderr.endswith(f"\n\n{error}\n")
