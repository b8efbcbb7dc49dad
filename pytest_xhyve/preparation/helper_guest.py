"""The helper guest: a guest of the plugin's own image that has a user's disk attached.

A file system from elsewhere is mounted in this guest and never on the host: the guest is thrown away, and what a
hostile file system does to a kernel stays in it. The guest sees an overlay, so the user's disk is never written.
"""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from pytest_xhyve.formats.mbr import has_boot_loader, has_signature
from pytest_xhyve.formats.tar import DamagedArchive, Kind, TarReader
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.clone import overlay_disk
from pytest_xhyve.images.build import build_image
from pytest_xhyve.model.completed import Completed
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.machine import Disk
from pytest_xhyve.model.text import printable
from pytest_xhyve.model.values import Firmware
from pytest_xhyve.preparation.facts import DISK, Facts
from pytest_xhyve.preparation.new_file import NewFile
from pytest_xhyve.preparation.run_context import RunContext

_IMAGE = "tiny"
_NAME = "helper"
_SCRIPTS = Path(__file__).parent / "scripts"
_SCRIPTS_IN_GUEST = "/root/scripts"
# The size of the empty disk to which the helper guest copies kernel and initial RAM disk; it is a sparse file.
_COPIES_BYTES = 1 << 30
READ = (
    "etc/os-release",
    "usr/lib/os-release",
    "etc/passwd",
    "etc/group",
    "etc/selinux/config",
    "etc/ssh/sshd_config",
    "etc/ssh/sshd_config.d",
    "etc/ssh/ssh_host_ed25519_key.pub",
    "etc/ssh/ssh_host_ecdsa_key.pub",
    "etc/ssh/ssh_host_rsa_key.pub",
    "etc/network/interfaces",
    "etc/network/interfaces.d",
    "etc/netplan",
    "etc/systemd/network",
    "etc/NetworkManager/system-connections",
    "etc/sysconfig/network-scripts",
    "boot/grub/grub.cfg",
    "boot/grub2/grub.cfg",
    "boot/loader/entries",
    "boot/efi/loader/entries",
    "boot/efi/EFI/debian/grub.cfg",
    "boot/extlinux",
    "boot/extlinux.conf",
    "boot/syslinux",
)
"""Small files that Python reads; of a folder, all files in it."""


class HelperGuest:
    """The running helper guest with the disk; see `open_disk`.

    Args:
        guest: the guest.
        copies: the empty disk, a file of the host.
        timeout: the limit of each step, in seconds.
    """

    def __init__(self, guest: Guest, copies: Path, timeout: float) -> None:
        self._guest = guest
        self._copies = copies
        self._timeout = timeout

    def look(self) -> Facts:
        """Find the system on the disk, and mount it in the guest if there is exactly one.

        Raises:
            ImageError: the system cannot be mounted or read.
        """
        facts = Facts.parse(self._run("look.sh", [DISK]))
        if len(facts.roots) != 1:
            return facts
        archive = base64.b64decode(self._run("read.sh", READ))
        with _explain_damaged_archive():
            return replace(facts, files={name: b"".join(data) for name, data in _files(io.BytesIO(archive))})

    def find_firmware(self) -> Firmware | None:
        """What the disk boots by: a BIOS if its first sector has a boot loader, or else UEFI; None if by neither."""
        sector = base64.b64decode(self._run("sector.sh", [DISK]))
        if has_boot_loader(sector):
            return "bios"
        return "uefi" if has_signature(sector) else None

    def write(self, files: Sequence[NewFile], selinux_policy: str = "") -> None:
        """Write *files* into the system.

        Args:
            files: the files.
            selinux_policy: label them by this policy of the system, with the system's own setfiles(8). A file without a
                label is closed to all services where SELinux is enforced.

        Raises:
            ImageError: one cannot be written, for example because the disk is full.
        """
        for file in files:
            how = [f"{file.mode:o}", "append" if file.append else "", selinux_policy]
            done = self._try("write.sh", [file.path, *how], file.content)
            if done.returncode != 0:
                raise ImageError(
                    f"cannot write /{printable(file.path)} on the disk, which the plugin needs for its login and for "
                    f"the network:\n{_last_lines(done)}\n"
                    "  free some space on the disk, or make its file system writable, and shut it down cleanly"
                )

    def close(self, copies: Mapping[str, Path]) -> None:
        """Copy files out of the system, unmount it, so that its file systems are clean, and shut the guest down.

        Args:
            copies: paths in the system, without the first slash, and where each one goes on the host.

        Raises:
            ImageError: one cannot be copied.
        """
        if copies:
            self._run("copy.sh", list(copies))
        self._run("close.sh", [])
        # A hypervisor that is killed instead may have data of the overlay in its memory.
        self._guest.shutdown()
        missing = dict(copies)
        with self._copies.open("rb") as archive, _explain_damaged_archive():
            for name, data in _files(archive):
                if (target := missing.pop(name, None)) is not None:
                    with target.open("xb") as file:
                        file.writelines(data)
        if missing:
            raise ImageError(f"cannot copy {', '.join(missing)} out of the disk")

    def _run(self, script: str, arguments: Sequence[str]) -> str:
        done = self._try(script, arguments)
        if done.returncode != 0:
            raise ImageError(f"{script} failed in the helper guest:\n{_last_lines(done)}")
        return done.stdout

    def _try(self, script: str, arguments: Sequence[str], content: bytes | None = None) -> Completed:
        command = ["sh", f"{_SCRIPTS_IN_GUEST}/{script}", *arguments]
        return self._guest.run(command, check=False, timeout=self._timeout, input=content)


def _last_lines(done: Completed) -> str:
    return "\n".join(f"    {line}" for line in done.stderr.strip().splitlines()[-3:]) or "    (no output)"


@contextmanager
def open_disk(context: RunContext, disk: Disk, workspace: Path) -> Iterator[HelperGuest]:
    """A helper guest that has *disk* attached.

    Args:
        context: the run.
        disk: an overlay that may be written.
        workspace: a folder for the helper guest's own files.

    Raises:
        XhyveError: the class of the error states the reason.
    """
    image = build_image(_IMAGE, context.home, context.events.progress)
    own = workspace / _NAME
    own.mkdir()
    try:
        copies = own / "copies.img"
        with copies.open("wb") as file:
            file.truncate(_COPIES_BYTES)
        root = overlay_disk(Disk(image.disk, image.format), own, context.hypervisor.disk_formats)
        with context.booted(_NAME, image, root, disk, Disk(copies)) as guest:
            guest.put(_SCRIPTS, _SCRIPTS_IN_GUEST)
            yield HelperGuest(guest, copies, context.timeouts.boot)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _files(archive: IO[bytes]) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Path and content of each file in a tar archive."""
    reader = TarReader(archive.read)
    for member in reader.members():
        if member.kind is Kind.FILE:
            yield member.name, (chunk for _, chunk in reader.data())


@contextmanager
def _explain_damaged_archive() -> Iterator[None]:
    try:
        yield
    except DamagedArchive as error:
        raise ImageError(f"cannot read the files of the system on the disk: the archive {error}") from error
