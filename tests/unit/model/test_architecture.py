"""What differs between processors is said in one place."""

from __future__ import annotations

import re

import pages
import pytest

from pytest_xhyve.model.architecture import ARM64, X86_64, Architecture, find_architecture

PACKAGE = pages.TOP / "pytest_xhyve"
X86 = re.compile(r"x86[_-]64\b|\bamd64\b|ttyS0|\bq35\b|qemu-system-x86|OVMF_|no_timer_check|tsc=")
# Where x86 is the subject: xhyve itself, a kernel's format, machine code, the memory of a machine type.
ABOUT_X86 = {
    "model/architecture.py",
    # The numbers that ELF has for all of them.
    "preparation/facts.py",
}


def test_words_of_x86_are_in_one_module() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if X86.search(path.read_text()) and "hypervisors/xhyve" not in path.as_posix()
    }
    assert found == ABOUT_X86, "say it in model/architecture.py"


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
