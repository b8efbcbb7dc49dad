"""A kernel for another architecture is named as one."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from fake_images import KERNEL

from pytest_xhyve.formats.kernel import explain_other_kernel
from pytest_xhyve.model.architecture import ARM64, X86_64, Architecture

IMAGE = bytes(56) + b"ARM\x64" + bytes(5000)


@pytest.mark.parametrize(
    ("content", "architecture", "words"),
    [
        (IMAGE, X86_64, "is a Linux kernel for aarch64 (format Image), but guests are x86_64"),
        (gzip.compress(IMAGE, mtime=0), X86_64, "is a Linux kernel for aarch64 (format gzip), but guests are x86_64"),
        (b"\x7fELF" + bytes(4096), X86_64, "is not a Linux kernel for x86-64 (a bzImage: /boot/vmlinuz-*, not vm"),
        (b"", X86_64, "is not a Linux kernel for x86-64 (a bzImage: /boot/vmlinuz-*, not vmlinux)"),
        (KERNEL, X86_64, None),
        (KERNEL, ARM64, "is a Linux kernel for x86_64 (format bzImage), but guests are aarch64"),
        (b"\x7fELF" + bytes(4096), ARM64, "is not a Linux kernel for arm64 (an Image, a gzip file of one, or"),
        (IMAGE, ARM64, None),
        (gzip.compress(IMAGE, mtime=0), ARM64, None),
    ],
)
def test_what_it_is(tmp_path: Path, content: bytes, architecture: Architecture, words: str | None) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(content)
    found = explain_other_kernel(kernel, architecture)
    assert found == words or (found is not None and words is not None and found.startswith(words))
