"""Look into a disk without preparing it: report what is on it, and copy the files of a direct boot out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pytest_xhyve.host.clone import create_overlay
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.machine import Disk
from pytest_xhyve.preparation.disk_file import DiskFile, check_unused_and_whole
from pytest_xhyve.preparation.facts import Facts
from pytest_xhyve.preparation.helper_guest import HelperGuest, open_disk
from pytest_xhyve.preparation.host_reader import look_on_host
from pytest_xhyve.preparation.kernel import choose_kernel
from pytest_xhyve.preparation.run_context import RunContext
from pytest_xhyve.preparation.system import check_system
from pytest_xhyve.preparation.unpack import look_inside

KERNEL, INITRD, CMDLINE = "vmlinuz", "initrd.img", "cmdline"
"""The names of the files that `copy_boot_files` writes."""


def examine(path: Path, context: RunContext) -> tuple[DiskFile, Facts]:
    """What is on the disk at *path*, which is only read.

    Raises:
        ConfigurationError: the file is not a disk.
        ImageError: the disk is damaged or in use, or its system cannot be read.
    """
    disk = look_inside(path, context.home, context.events.progress)
    check_unused_and_whole(disk)
    facts = look_on_host(disk)
    if facts is not None:
        return disk, facts
    with _opened(disk, context) as helper:
        return disk, helper.look()


def copy_boot_files(path: Path, folder: Path, context: RunContext) -> list[Path]:
    """Copy kernel, initial RAM disk and command line of the disk at *path* into *folder*.

    Args:
        path: the disk, which is only read.
        folder: created if it is missing; it stays as it was if an error occurs.
        context: the run.

    Returns:
        the paths of the copies.

    Raises:
        ConfigurationError: the file is not a disk.
        ImageError: the disk has no kernel, or cannot be read; or *folder* has files, or cannot be written.
    """
    with new_files(folder) as copies:
        disk = look_inside(path, context.home, context.events.progress)
        check_unused_and_whole(disk)
        with _opened(disk, context) as helper:
            facts = helper.look()
            check_system(facts, path)
            boot = choose_kernel(facts)
            wanted: Mapping[str, str | None] = {KERNEL: boot.kernel, INITRD: boot.initrd}
            helper.close({source: copies / name for name, source in wanted.items() if source is not None})
        (copies / CMDLINE).write_text(f"{boot.cmdline}\n")
    return [copy for copy in (folder / KERNEL, folder / INITRD, folder / CMDLINE) if copy.exists()]


@contextmanager
def new_files(folder: Path) -> Iterator[Path]:
    """A folder for new files; at the end of the block they go into *folder*, unless an error ends the block.

    Raises:
        ImageError: *folder* has files, or cannot be written.
    """
    created = False
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            created = True
        elif any(folder.iterdir()):
            raise ImageError(f"{folder} has files already\n  give an empty folder, or one that does not exist")
        copies = Path(tempfile.mkdtemp(prefix=".new.", dir=folder))
    except OSError as error:
        raise ImageError(
            f"cannot write to {folder}: {error.strerror}\n  give a folder that you may write to, or that can be created"
        ) from error
    try:
        yield copies
        for copy in sorted(copies.iterdir()):
            copy.rename(folder / copy.name)
            created = False
    finally:
        shutil.rmtree(copies, ignore_errors=True)
        if created:
            folder.rmdir()


@contextmanager
def _opened(disk: DiskFile, context: RunContext) -> Iterator[HelperGuest]:
    """A helper guest that has an overlay of *disk*."""
    with context.workspace() as workspace:
        layer = Disk(workspace / "layer.qcow2", "qcow2")
        create_overlay(disk.path, disk.format, layer.path)
        with open_disk(context, layer, workspace) as helper:
            yield helper
