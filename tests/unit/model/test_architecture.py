"""What differs between processors is said in one place."""

from __future__ import annotations

import re

import pages
import pytest

from pytest_xhyve.model.architecture import ARM64, X86_64, Architecture, find_architecture

PACKAGE = pages.TOP / "pytest_xhyve"
X86 = re.compile(
    r"x86[_-]64\b|\bamd64\b|ttyS[0-9]|\bq35\b|bzImage|qemu-system-x86|OVMF_|Nehalem|no_timer_check|tsc=|\bvmx\b|kvm_intel"
)
# Where x86 is the subject, next to xhyve, which runs no other guests.
ABOUT_X86 = {
    "model/architecture.py",
    # The reader of that format.
    "formats/bzimage.py",
    # The addresses of distributions' disks.
    "images/distributions.yaml",
}


def test_words_of_x86_are_in_one_module() -> None:
    """And in none of the files that are not Python's, which run in guests and in browsers."""
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {".py", ".sh", ".yaml", ".js"} <= {path.suffix for path in files}
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in files
        if X86.search(path.read_text()) and "hypervisors/xhyve" not in path.as_posix()
    }
    assert found == ABOUT_X86, "state it in model/architecture.py"


@pytest.mark.parametrize(
    ("machine", "is_native"), [("x86_64", True), ("AMD64", True), ("aarch64", False), ("arm64", False), ("i686", False)]
)
def test_hosts_that_need_not_emulate(machine: str, is_native: bool) -> None:
    assert X86_64.is_native(machine) == is_native


@pytest.mark.parametrize(
    ("word", "architecture"),
    [("x86_64", X86_64), ("amd64", X86_64), ("aarch64", ARM64), ("arm64", ARM64), ("i386", None), ("", None)],
)
def test_words_for_architectures(word: str, architecture: Architecture | None) -> None:
    assert find_architecture(word) == architecture


def test_default_cpu_is_a_level() -> None:
    assert X86_64.default_cpu in X86_64.emulated_cpus
