"""Whether the system that was found on a disk can become a guest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_xhyve.model.architecture import ARCHITECTURES
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.preparation.facts import Facts, describe_device

# Types of volumes, as blkid(8) names them, that no guest can be made of, with what they are and what to do.
_UNSUPPORTED = {
    "crypto_LUKS": ("is encrypted (LUKS)", "decrypt the disk (cryptsetup-reencrypt --decrypt), or use one that is not"),
    "BitLocker": ("is encrypted (BitLocker)", "the plugin runs Linux only"),
    "ntfs": ("has a file system of Windows (NTFS)", "the plugin runs Linux only"),
    "linux_raid_member": ("is a part of a RAID", "copy the system to a disk without RAID"),
    "zfs_member": ("has ZFS", "copy the system to ext4, XFS or btrfs"),
    "bcachefs": ("has bcachefs", "copy the system to ext4, XFS or btrfs"),
    "ufs": ("has a file system of BSD (UFS)", "the plugin runs Linux only"),
}


def check_system(facts: Facts, disk: Path) -> None:
    """Check that exactly one Linux of a known architecture was found.

    Raises:
        ImageError: there is none, or more than one; the message states what is on the disk instead.
    """
    if len(facts.roots) > 1:
        raise ImageError(
            f"{disk} has more than one system, and the plugin cannot know which one you mean:\n"
            f"{_as_lines(facts.roots)}\n"
            "  describe the one that you mean in a manifest beside the disk"
        )
    if not facts.roots:
        raise ImageError(_explain_no_system(facts, disk))
    if facts.architecture not in ARCHITECTURES:
        raise ImageError(
            f"{disk} has {facts.system} for {facts.architecture or 'an unknown architecture'}; "
            f"guests are {' or '.join(ARCHITECTURES)}"
        )


@contextmanager
def naming_disk(disk: Path) -> Iterator[None]:
    """Let an `ImageError` of the block name *disk*, for a run may have several."""
    try:
        yield
    except ImageError as error:
        if str(disk) in str(error):
            raise
        raise ImageError(f"{disk}: {error}") from error


def _explain_no_system(facts: Facts, disk: Path) -> str:
    for volume in facts.volumes:
        if volume.type in _UNSUPPORTED:
            what, fix = _UNSUPPORTED[volume.type]
            return f"{disk}: {describe_device(volume.device)} {what}\n  {fix}"
    found = _as_lines([*facts.volumes, *facts.problems])
    fix = "name the disk that the machine boots from; /etc and /usr have to be on one file system of it"
    if facts.problems:
        fix = "copy the disk again; if that is whole, repair its file systems in the machine that it belongs to (fsck)"
    return f"{disk} has no Linux system that could be read; what was found on it:\n{found or '    nothing'}\n  {fix}"


def _as_lines(things: Iterable[object]) -> str:
    return "\n".join(f"    {thing}" for thing in things)
