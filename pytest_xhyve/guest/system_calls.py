"""The numbers of the system calls that the plugin makes in guests.

From arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h in Linux. Only calls are used that
both architectures have: arm64 has ``openat`` and ``unlinkat``, but not ``open`` and ``unlink``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

from pytest_xhyve.model.architecture import ARM64, X86_64, Architecture

SystemCall = Literal[
    "adjtimex",
    "clock_settime",
    "close",
    "fsync",
    "getpid",
    "ioctl",
    "lseek",
    "openat",
    "pwrite64",
    "sethostname",
    "setpriority",
    "setsid",
    "socket",
    "unlinkat",
    "write",
    "writev",
]

AT_FDCWD = -100
"""In the place of a descriptor: a path is relative to the current folder (openat(2))."""

_ORDER = get_args(SystemCall)
_NUMBERS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        X86_64.name: (159, 227, 3, 74, 39, 16, 8, 257, 18, 170, 141, 112, 41, 263, 1, 20),
        ARM64.name: (171, 112, 57, 82, 172, 29, 62, 56, 68, 161, 140, 157, 198, 35, 64, 66),
    }
)


def number_of(call: SystemCall, architecture: Architecture) -> int:
    """The number of *call* on *architecture*."""
    return _NUMBERS[architecture.name][_ORDER.index(call)]
