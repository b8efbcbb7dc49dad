"""Whether the system that was found on a disk can become a guest."""

from __future__ import annotations

from pathlib import Path

from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.preparation.facts import Facts

# Types of volumes, as blkid(8) names them, that no guest can be made of, with what they are and what to do.
_HOPELESS = {
    "crypto_LUKS": ("is encrypted (LUKS)", "decrypt the disk (cryptsetup-reencrypt --decrypt), or use one that is not"),
    "BitLocker": ("is encrypted (BitLocker)", "the plugin runs Linux only"),
    "ntfs": ("has a file system of Windows (NTFS)", "the plugin runs Linux only"),
    "linux_raid_member": ("is a part of a RAID", "copy the system to a disk without RAID"),
    "zfs_member": ("has ZFS", "copy the system to ext4, XFS or btrfs"),
    "bcachefs": ("has bcachefs", "copy the system to ext4, XFS or btrfs"),
    "ufs": ("has a file system of BSD (UFS)", "the plugin runs Linux only"),
}


def check_system(facts: Facts, disk: Path) -> None:
    """Check that exactly one Linux of this architecture was found.

    Raises:
        ImageError: there is none, or more than one; the message states what is on the disk instead.
    """
    if len(facts.roots) > 1:
        found = "\n".join(
            f"    {root.device.replace('/dev/vdb', 'partition ')} ({root.type}"
            + (f", subvolume {root.subvolume}" if root.subvolume else "")
            + ")"
            for root in facts.roots
        )
        raise ImageError(
            f"{disk} has more than one system, and the plugin cannot know which one you mean:\n{found}\n"
            "  write a manifest beside the disk that has `cmdline: root=…`"
        )
    if not facts.roots:
        raise ImageError(_explain_no_system(facts, disk))
    if facts.architecture != "x86_64":
        raise ImageError(
            f"{disk} has {facts.system} for {facts.architecture or 'an unknown architecture'}; guests here are x86_64"
        )


def _explain_no_system(facts: Facts, disk: Path) -> str:
    for volume in facts.volumes:
        if volume.type in _HOPELESS:
            what, fix = _HOPELESS[volume.type]
            name = volume.device.removeprefix("/dev/vdb")
            return f"{disk}: {f'partition {name}' if name.isdecimal() else 'it'} {what}\n  {fix}"
    volumes = [
        f"{volume.device.replace('/dev/vdb', 'partition ')}: {volume.type or 'unknown'}" for volume in facts.volumes
    ]
    lines = "\n".join(f"    {line}" for line in [*volumes, *facts.troubles])
    return f"{disk} has no Linux system that could be read; what was found on it:\n{lines or '    nothing'}"
