"""Whose fault it is that a guest cannot be restored."""

from __future__ import annotations

import errno
from pathlib import Path

from pytest_xhyve.fleet import startup
from pytest_xhyve.model.errors import BootFailed, ImageError


def test_template_is_at_fault_if_its_guest_does_not_boot(tmp_path: Path) -> None:
    assert startup._is_template_at_fault(BootFailed("no answer"), tmp_path)


def test_folder_of_the_guest_may_be_gone(tmp_path: Path) -> None:
    assert startup._is_template_at_fault(BootFailed("no answer"), tmp_path / "run" / "guest")


def test_template_is_not_at_fault_if_descriptors_ran_out(tmp_path: Path) -> None:
    error = ImageError("cannot clone the disk")
    error.__cause__ = OSError(errno.EMFILE, "Too many open files")
    assert not startup._is_template_at_fault(error, tmp_path)
