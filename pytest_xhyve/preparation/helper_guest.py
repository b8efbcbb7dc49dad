"""The helper guest: a small guest of the plugin's own that has a user's disk attached.

A file system from elsewhere is mounted in this guest and never on the host: the guest is thrown away, and what a
hostile file system does to a kernel stays in it. The guest sees an overlay, so the user's disk is never written.
"""

from __future__ import annotations

import base64
import gzip
import io
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.clone import overlay_disk
from pytest_xhyve.images.build import build_image
from pytest_xhyve.model.errors import CommandFailed, ImageError
from pytest_xhyve.model.machine import Disk
from pytest_xhyve.preparation.facts import Facts
from pytest_xhyve.preparation.login import NewFile
from pytest_xhyve.preparation.workbench import Workbench

IMAGE = "tiny"
"""The image of the catalog that the helper guest is cloned from."""

NAME = "helper"

_SCRIPTS = Path(__file__).parent
_LOOK_SECONDS = 120.0
_COPY_SECONDS = 300.0
_ANSWER_BYTES = 1 << 30
_FILES_BYTES = 32 << 20
_DISK = "/dev/vdb"
# What Python reads of a system; each glob is expanded inside it.
_READ = (
    "etc/os-release",
    "usr/lib/os-release",
    "etc/passwd",
    "etc/fstab",
    "etc/hostname",
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
    "etc/selinux/config",
    "etc/default/grub",
    "boot/grub/grub.cfg",
    "boot/grub2/grub.cfg",
    "boot/loader/entries",
    "boot/efi/loader/entries",
    "boot/efi/EFI/debian/grub.cfg",
    "boot/extlinux",
    "boot/extlinux.conf",
    "boot/syslinux",
)


class HelperGuest:
    """The running helper guest with the disk; see `open_disk`."""

    def __init__(self, guest: Guest, answer: Path) -> None:
        self._guest = guest
        self._answer = answer
        self.facts = Facts((), (), (), {})

    def look(self) -> None:
        """Find the system on the disk, mount it in the guest, and read what is known of it into `facts`."""
        done = self._run("look.sh", [_DISK], _LOOK_SECONDS)
        facts = Facts.parse(done, {})
        files = self._read(_READ) if len(facts.roots) == 1 else {}
        self.facts = Facts(facts.volumes, facts.roots, facts.troubles, facts.values, files)

    def write(self, files: Sequence[NewFile]) -> None:
        """Write *files* into the system.

        Raises:
            ImageError: one cannot be written, for example because the disk is full.
        """
        for file in files:
            words = [file.path, f"{file.mode:o}", "append" if file.append else ""]
            try:
                self._guest.run(["sh", "-c", _script("write.sh"), "write.sh", *words], input=file.content)
            except CommandFailed as error:
                reason = error.completed.stderr.strip().splitlines()[-1:] or ["no reason given"]
                raise ImageError(f"cannot write /{file.path} into the clone of the disk: {reason[0]}") from error

    def copy(self, paths: Sequence[str], folder: Path) -> list[Path]:
        """Copy files out of the system into *folder*; they get the names of their last components.

        The guest is shut down for it: `close` must have been called, and the copies are there after the block.
        """
        self._run("copy.sh", list(paths), _COPY_SECONDS)
        self._copies = [(path, folder / Path(path).name) for path in paths]
        return [target for _, target in self._copies]

    def close(self) -> None:
        """Unmount the system, so that its file systems are clean, and shut the guest down."""
        self._run("close.sh", [], _LOOK_SECONDS)
        self._guest.shutdown()
        copies = dict(getattr(self, "_copies", []))
        if copies:
            _unpack(self._answer, copies)

    def _read(self, paths: Sequence[str]) -> dict[str, bytes]:
        packed = base64.b64decode(self._run("read.sh", paths, _LOOK_SECONDS))
        try:
            with gzip.open(io.BytesIO(packed)) as stream:
                archive = stream.read(_FILES_BYTES)
            with tarfile.open(fileobj=io.BytesIO(archive)) as members:
                found = {}
                for member in members:
                    file = members.extractfile(member) if member.isreg() else None
                    if file is not None:
                        found[member.name.removeprefix("./").lstrip("/")] = file.read()
                return found
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            raise ImageError(f"cannot read the files of the system on the disk: {error}") from error

    def _run(self, script: str, words: Sequence[str], timeout: float) -> str:
        done = self._guest.run(["sh", "-c", _script(script), script, *words], timeout=timeout)
        return done.stdout


@contextmanager
def open_disk(bench: Workbench, disk: Disk, workspace: Path) -> Iterator[HelperGuest]:
    """A helper guest that has *disk* attached.

    Args:
        bench: what the preparation happens in.
        disk: an overlay that may be written.
        workspace: a folder for the helper guest's own files.

    Raises:
        XhyveError: in one of its kinds.
    """
    image = build_image(IMAGE, bench.home, bench.events.progress)
    answer = workspace / "answer.img"
    with answer.open("wb") as file:
        file.truncate(_ANSWER_BYTES)
    own = workspace / "helper"
    own.mkdir()
    try:
        with bench.guard(NAME, image) as process:
            root = overlay_disk(Disk(image.disk, image.format), own, bench.hypervisor.disk_formats)
            machine = bench.machine(NAME, image, (root, disk, Disk(answer, "raw")))
            guest = Guest(bench.instance(image, process), machine)
            guest._boot_or_restore()
            try:
                yield HelperGuest(guest, answer)
            finally:
                guest._switch_off()
    finally:
        shutil.rmtree(own, ignore_errors=True)
        answer.unlink(missing_ok=True)


def _script(name: str) -> str:
    return (_SCRIPTS / name).read_text()


def _unpack(answer: Path, targets: dict[str, Path]) -> None:
    with tarfile.open(answer, "r|") as archive:
        for member in archive:
            target = targets.pop(member.name.removeprefix("./").lstrip("/"), None)
            content = archive.extractfile(member) if target is not None and member.isreg() else None
            if content is None or target is None:
                continue
            with target.open("wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
            if not targets:
                break
    if targets:
        raise ImageError(f"cannot copy {', '.join(targets)} out of the disk")
