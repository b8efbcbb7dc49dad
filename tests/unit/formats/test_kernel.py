"""A kernel for another architecture is named as one."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from fake_images import KERNEL

from pytest_xhyve.formats.kernel import explain_other_kernel

ARM64 = bytes(56) + b"ARM\x64" + bytes(5000)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (ARM64, "is a Linux kernel for arm64 (format Image), but guests are x86_64"),
        (gzip.compress(ARM64, mtime=0), "is a Linux kernel for arm64 (format gzip), but guests are x86_64"),
        (b"\x7fELF" + bytes(4096), "is not a Linux kernel for x86-64 (a bzImage: /boot/vmlinuz-*, not vmlinux)"),
        (b"", "is not a Linux kernel for x86-64 (a bzImage: /boot/vmlinuz-*, not vmlinux)"),
        (KERNEL, None),
    ],
)
def test_what_it_is(tmp_path: Path, content: bytes, words: str | None) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(content)
    assert explain_other_kernel(kernel) == words
