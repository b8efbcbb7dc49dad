"""The file of a layer: what a guest's disk has beside the disk that it was cloned from."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_xhyve.formats.qcow2 import read_qcow2_header
from pytest_xhyve.host.clone import clone_file
from pytest_xhyve.host.qemu_img import run_qemu_img
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.machine import Disk

LAYER_FILE = "layer.qcow2"
"""The name of a layer's file in its folder."""

_SECONDS = 3600.0


def copy_layer(clone: Disk, base: Disk, folder: Path) -> Disk:
    """Copy what *clone* has beside *base* into *folder*.

    If *clone* is raw, it contains the whole disk, and so does the copy.

    Args:
        clone: a disk that was cloned from *base*, or from a saved state of a guest of it; nothing writes to it.
        base: the disk under the layer.
        folder: for the new file: ``CACHE/ROOM/NAME``. The file stays valid if the folder gets another name.

    Raises:
        ImageError: the copy cannot be made.
        OSError: the disk is full.
    """
    copy = Disk(folder / ("disk.img" if clone.format == "raw" else LAYER_FILE), clone.format)
    clone_file(clone.path, copy.path)
    copy.path.chmod(0o600)
    if copy.format == "raw":
        if read_qcow2_header(copy.path) is not None:
            # Taken for one, it would let its guests read the files of the host that it names.
            raise ImageError(
                f"the raw disk {clone.path} begins as a qcow2 file does: its guest has written that, and it is not kept"
            )
        return copy
    # qemu-img takes a name as relative to the file that has it. In its safe mode, it copies what differs from the new
    # base, so that the file of a template below the clone is not needed any more (qemu-img(1)).
    name = relative_to_cache(base.path, folder)
    done = run_qemu_img("rebase", "-q", "-f", "qcow2", "-F", base.format, "-b", name, str(copy.path), timeout=_SECONDS)
    if done.returncode != 0:
        raise ImageError(f"cannot make a layer over {base.path}: {done.stderr.strip() or 'qemu-img failed'}")
    return copy


def relative_to_cache(path: Path, folder: Path) -> str:
    """How a file in *folder*, ``CACHE/ROOM/NAME``, names *path*: relative if *path* is in the cache folder, too.

    So the cache folder may be moved, or copied to another machine.
    """
    real, own = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return os.path.relpath(real, own) if real.is_relative_to(own.parents[1]) else str(real)
