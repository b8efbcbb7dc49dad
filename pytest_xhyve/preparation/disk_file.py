"""A user's disk as a file of this host: its format, what it is based on, and whether it can be used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pytest_xhyve.formats.compression import DamagedFile, decompressed
from pytest_xhyve.formats.disk_file import HEAD_BYTES, FileKind, identify
from pytest_xhyve.formats.partitions import needed_size
from pytest_xhyve.host.qemu_img import run_qemu_img
from pytest_xhyve.images.backing import backing_files
from pytest_xhyve.model.errors import ConfigurationError, ImageError

_COPY_SECONDS = 3600.0
_FORMATS = "  give a disk in one of the formats raw, qcow2, vmdk, vdi, vhdx or vhd, also compressed (xz, zstd, gzip)"
_CAN_BE_SAVED = {"raw", "qcow2"}


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A disk's file.

    Attributes:
        path: the file; absolute.
        format: its format as QEMU names it (qemu-img(1)): ``raw``, ``qcow2``, ``vmdk``, ``vdi``, ``vhdx`` or ``vpc``.
        backing: the files that it is based on, the nearest first.
        compression: ``gzip``, ``xz`` or ``zstd`` if the file is compressed (the format is that of the disk in it), else
            empty.
        can_be_saved: whether QEMU can save and restore a machine that reads these files; it cannot with vmdk, vdi, vhdx
            and vpc, which block migration (block/vmdk.c and others in its sources).
    """

    path: Path
    format: str
    backing: tuple[Path, ...] = ()
    can_be_saved: bool = True
    compression: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that a guest's disk is read from."""
        return (self.path, *self.backing)


def look(path: Path) -> DiskFile:
    """The disk at *path*, by what can be seen in a millisecond.

    Raises:
        ConfigurationError: the file cannot be read, or is not a disk.
        ImageError: the disk is cut off or encrypted, or a file that it is based on is missing.
    """
    kind = _identify(path)
    if kind.kind == "other":
        raise ConfigurationError(f"{path} is not a disk: it is {kind.name}\n{_FORMATS}")
    if kind.kind == "compressed":
        inside = _identify_inside(path, kind.name)
        if inside.kind != "disk":
            what = f"compressed by {inside.name} once more" if inside.kind == "compressed" else inside.name
            raise ConfigurationError(
                f"{path} is compressed by {kind.name}, and there is no disk in it: {what}\n{_FORMATS}"
            )
        return DiskFile(path.absolute(), inside.name, compression=kind.name)
    if kind.name == "raw":
        _check_whole(path)
    backing = backing_files(path, kind.name)
    can_be_saved = {kind.name, *(_identify(file).name for file in backing)} <= _CAN_BE_SAVED
    return DiskFile(path.absolute(), kind.name, backing, can_be_saved)


def _identify(path: Path) -> FileKind:
    try:
        with path.open("rb") as file:
            return identify(file.read(HEAD_BYTES))
    except OSError as error:
        raise ConfigurationError(f"cannot read the disk {path}: {error.strerror}") from error


def _identify_inside(path: Path, compression: str) -> FileKind:
    """What is in the compressed file at *path*, by the first bytes of its content."""
    try:
        with path.open("rb") as file, BytesIO() as start:
            for piece in decompressed(file, compression):
                start.write(piece)
                if start.tell() >= HEAD_BYTES:
                    break
            head = start.getvalue()
    except DamagedFile as error:
        raise ImageError(f"{path} is damaged or cut off: {error}\n  copy the file again") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read the disk {path}: {error.strerror}") from error
    return identify(head[:HEAD_BYTES])


def _check_whole(path: Path) -> None:
    with path.open("rb") as file:
        needed = needed_size(file.read(34 * 512))
    size = path.stat().st_size
    if needed > size:
        raise ImageError(
            f"{path} is cut off: its partitions end at byte {needed}, and the file has {size} bytes\n"
            "  copy the disk again"
        )


def check_unused_and_whole(disk: DiskFile) -> None:
    """Check with qemu-img that no program writes to *disk*, and that its structure is whole.

    Raises:
        ImageError: another program uses the disk, or it is damaged or cut off; the message has qemu-img's output.
    """
    info = run_qemu_img("info", "-f", disk.format, str(disk.path))
    if info.returncode != 0:
        # QEMU's block/file-posix.c. The rest of the text may have the path, or a "block" of the disk.
        if re.search(r'Failed to get (shared )?"[\w ]+" lock', info.stderr):
            raise ImageError(
                f"{disk.path} is in use by another program, such as a virtual machine that runs from it\n"
                "  shut that machine down first: what a running machine writes would be half there"
            )
        raise ImageError(
            f"cannot open {disk.path} as {disk.format}: {_last_line(info.stderr)}\n"
            "  it is damaged, cut off, or of a variant that this QEMU does not know: copy the disk again, or export it "
            "in another format"
        )
    # raw has nothing to check, and vmdk's checker takes each unused cluster for an error (block/vmdk.c).
    if disk.format in ("qcow2", "vdi", "vhdx"):
        done = run_qemu_img("check", "-f", disk.format, str(disk.path))
        # 2: corruptions; 1: not completed. 3 are leaks, which harm nothing (qemu-img(1)).
        if done.returncode not in (0, 3, 63):
            raise ImageError(
                f"{disk.path} is damaged or cut off: {_last_line(done.stdout + done.stderr)}\n  copy the disk again"
            )


def copy_as_qcow2(disk: DiskFile, target: Path) -> None:
    """Copy what a guest sees of *disk* to the new file *target*.

    Raises:
        ImageError: qemu-img failed; the message has its output.
    """
    done = run_qemu_img("convert", "-f", disk.format, "-O", "qcow2", str(disk.path), str(target), timeout=_COPY_SECONDS)
    if done.returncode != 0:
        raise ImageError(f"cannot copy {disk.path} into {target.parent}: {_last_line(done.stderr)}")
    target.chmod(0o600)


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "qemu-img gave no reason"
