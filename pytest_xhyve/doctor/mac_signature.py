"""What codesign(1) prints about a program on a Mac, and what the program itself prints."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_xhyve.doctor.mac_host import Mac
from pytest_xhyve.doctor.programs import CommandResult, CommandRunner

VIRTUALIZATION = "com.apple.security.virtualization"


def ask(programs: CommandRunner, argv: Sequence[str]) -> tuple[int | None, str]:
    """The exit code and the output of a command line, as the drivers ask for them."""
    answer = programs.run(argv)
    return answer.code, answer.text


def read_signature(mac: Mac, path: str) -> CommandResult:
    """What codesign prints about the entitlements of the program at *path*."""
    return mac.programs.run(["/usr/bin/codesign", "-d", "--entitlements", "-", path])


def is_entitled(signature: CommandResult, name: str) -> bool:
    """Whether codesign's output grants *name*, in the format of macOS 12 and later, or as an older property list."""
    key = re.escape(name)
    granted = rf"\[Key\] {key}\s+\[Value\]\s+\[Bool\] true|<key>{key}</key>\s*<true\s*/>"
    return re.search(granted, signature.out) is not None
