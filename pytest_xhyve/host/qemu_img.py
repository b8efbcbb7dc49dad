"""Run qemu-img, QEMU's program for disk files."""

from __future__ import annotations

import shutil
import subprocess

from pytest_xhyve.host.processes import run_program
from pytest_xhyve.model.errors import ImageError

# Creating and checking a file takes milliseconds; the file system may be one of another host.
_SECONDS = 300.0


class QemuImgNotFound(ImageError):
    """qemu-img is not installed."""


def has_qemu_img() -> bool:
    """Whether qemu-img is installed."""
    return shutil.which("qemu-img") is not None


def run_qemu_img(*words: str, timeout: float = _SECONDS) -> subprocess.CompletedProcess[str]:
    """Run qemu-img, which ends with this process, whatever its exit code.

    Args:
        words: its arguments (qemu-img(1)).
        timeout: the limit, in seconds.

    Raises:
        QemuImgNotFound: it is not installed.
        ImageError: it did not end in time.
    """
    program = shutil.which("qemu-img")
    if program is None:
        raise QemuImgNotFound(
            "qemu-img not found, which makes and reads disks\n"
            "  install it (Debian and Ubuntu: qemu-utils, macOS: brew install qemu)"
        )
    try:
        return run_program([program, *words], timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"`qemu-img {words[0]}` took longer than {timeout:.0f} s") from error
