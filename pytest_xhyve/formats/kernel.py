"""Whether a file is a kernel that guests can boot."""

from __future__ import annotations

from pathlib import Path

from pytest_xhyve.formats.arm64_kernel import read_arm64_kernel
from pytest_xhyve.formats.bzimage import read_kernel_header
from pytest_xhyve.model.architecture import ARM64, X86_64, Architecture


def identify_kernel(path: Path) -> tuple[Architecture, str] | None:
    """The architecture and the format of the kernel at *path*, or None if the file is not a kernel for guests.

    Raises:
        OSError: the file cannot be read.
    """
    if read_kernel_header(path) is not None:
        return X86_64, X86_64.kernel_file
    arm64 = read_arm64_kernel(path)
    return None if arm64 is None else (ARM64, arm64.form)


def explain_other_kernel(path: Path, architecture: Architecture) -> str | None:
    """What the file at *path* is, if it is not a kernel for guests of *architecture*; or else None.

    The text follows the file's name in a message.

    Raises:
        OSError: the file cannot be read.
    """
    identified = identify_kernel(path)
    if identified is None:
        return f"is not {architecture.kernel}"
    found, form = identified
    if found == architecture:
        return None
    return f"is a Linux kernel for {found.name} (format {form}), but guests are {architecture.name}"
