"""The numbers of system calls, held to those of this host's C headers where it has a compiler."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import get_args

import pytest

from pytest_xhyve.guest.system_calls import SystemCall, number_of
from pytest_xhyve.model.architecture import ARM64, host_architecture

# include/uapi/asm-generic/unistd.h in Linux, which arm64 uses as it is; linux-libc-dev installs it everywhere.
GENERIC = "#include <asm-generic/unistd.h>\n"


def numbers(source: str) -> dict[str, int]:
    """The numbers that the C preprocessor finds in *source*."""
    if shutil.which("cpp") is None:
        pytest.skip("no C preprocessor here")
    done = subprocess.run(
        ["cpp", "-dM", "-D__BITS_PER_LONG=64"], input=source, check=True, capture_output=True, text=True
    )
    found = dict(re.findall(r"^#define __NR(?:3264)?_(\w+) (\d+)$", done.stdout, re.MULTILINE))
    return {name: int(value) for name, value in found.items()}


def test_numbers_of_this_host() -> None:
    known = numbers("#include <asm/unistd.h>\n")
    assert {each: number_of(each, host_architecture()) for each in get_args(SystemCall)} == {
        each: known[each] for each in get_args(SystemCall)
    }


def test_numbers_of_arm64() -> None:
    known = numbers(GENERIC)
    assert {each: number_of(each, ARM64) for each in get_args(SystemCall)} == {
        each: known[each] for each in get_args(SystemCall)
    }
