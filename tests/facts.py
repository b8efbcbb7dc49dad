"""What a helper guest might find on a disk, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_xhyve.preparation.facts import Facts


def facts_of(
    *,
    boot: Sequence[str] = (),
    there: Sequence[str] = (),
    files: Mapping[str, bytes] | None = None,
    root: str = "/dev/vdb1 ext4 ",
) -> Facts:
    lines = [f"root\t{root}", "elf\tELF", "architecture\t62"]
    lines += [f"boot\t{name}" for name in boot] + [f"there\t{path}" for path in there]
    return replace(Facts.parse("\n".join(lines)), files={"etc/os-release": b'PRETTY_NAME="Debian"\n', **(files or {})})
