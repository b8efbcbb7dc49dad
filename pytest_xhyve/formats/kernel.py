"""Whether a file is a kernel that guests can boot."""

from __future__ import annotations

from pathlib import Path

from pytest_xhyve.formats.arm64_kernel import read_arm64_kernel
from pytest_xhyve.formats.bzimage import read_kernel_header
from pytest_xhyve.model.architecture import ARM64, X86_64


def explain_other_kernel(path: Path) -> str | None:
    """What the file at *path* is, if it is not a kernel for guests, to follow its name in a message; or else None.

    Raises:
        OSError: the file cannot be read.
    """
    if read_kernel_header(path) is not None:
        return None
    other = read_arm64_kernel(path)
    if other is not None:
        return f"is a Linux kernel for {ARM64.debian} (format {other.form}), but guests are {X86_64.name}"
    return f"is not {X86_64.kernel}"
