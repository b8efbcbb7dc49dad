"""Save the guests of a failed test as one bundle.

All guests are paused first, so that the bundle shows them at one moment. They go on when it is complete: the teardown
of the test may need them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_xhyve.formats.bundle_file import BundleWriter
from pytest_xhyve.formats.qcow2 import read_qcow2_header
from pytest_xhyve.guest.evidence import collect_evidence
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.guest.power import Power
from pytest_xhyve.host.clone import DISK, create_overlay
from pytest_xhyve.host.digests import known_digest
from pytest_xhyve.host.exhaustion import is_readable
from pytest_xhyve.host.processes import is_running
from pytest_xhyve.host.qemu_img import has_qemu_img, run_qemu_img
from pytest_xhyve.hypervisors.base import VirtualMachine
from pytest_xhyve.images.backing import backing_files
from pytest_xhyve.model.errors import ImageError, LanFailed, NotSupported, XhyveError
from pytest_xhyve.model.failure import Failure
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk
from pytest_xhyve.templates.differences import BUILD
from pytest_xhyve.templates.image_files import ImageFiles
from pytest_xhyve.templates.login import describe_login
from pytest_xhyve.templates.saved_guest import SavedDisk, SavedFile, SavedGuest, SavedImage
from pytest_xhyve.templates.saved_lan import SavedCard, SavedLan, SavedPlace

if TYPE_CHECKING:
    from pytest_xhyve.lan.switch import Switch
    from pytest_xhyve.model.link import LinkState

SUFFIX = ".xhyve"
"""The suffix of a bundle's name."""

_NEW = ".new"
_CHUNK = 1 << 20
_LOOK_SECONDS = 0.25
# Longer than the limit that the hypervisor has to write the state.
_END_SECONDS = 150.0
_MOST_CONSOLE = 16 << 20


def save_bundle(
    path: Path, failure: Failure, guests: Sequence[Guest], checked: Path, *, with_images: bool = False
) -> int:
    """Save *guests*, as they are now, as the bundle *path*; the file appears there only when it is complete.

    Args:
        path: the file to write; its folder exists.
        failure: the test that failed.
        guests: its guests; one that is off is saved without memory.
        checked: the folder of remembered digests.
        with_images: whether the bundle gets the files of the images, too.

    Returns:
        the size of the bundle, in bytes.

    Raises:
        OSError: the bundle cannot be written, for example because the disk is full.
        XhyveError: a guest cannot be saved.
    """
    remove_unfinished(path.parent)
    with ExitStack() as stack:
        for guest in guests:
            stack.enter_context(_paused(guest))
        file = stack.enter_context(_new_file(path))
        lans = _Lans(guests)
        plans = [_plan(guest, guests[:number], lans, checked, stack) for number, guest in enumerate(guests)]
        images = ImageFiles(guests if with_images else (), checked)
        about = {
            "failure": failure.to_dict(),
            "guests": [plan.to_dict() for plan, _ in plans],
            "lans": lans.describe(),
            "image_files": images.digests,
        }
        writer = BundleWriter(file, about)
        for guest, (plan, layers) in zip(guests, plans, strict=True):
            if plan.has_memory:
                with closing(_state_of(guest._own_power.machine)) as state:
                    writer.add(plan.state, state)
            # Only now, as the hypervisor has written all to the disks that it still had in its memory.
            for (disk, number), layer in layers.items():
                writer.add(plan.layer(disk, number), _content_of(layer))
            writer.add(plan.console, _console_of(guest))
        for member, image_file in images.members():
            writer.add(member, _content_of(image_file))
        writer.finish()
        Path(file.name).replace(path)
    return path.stat().st_size


def remove_unfinished(folder: Path) -> None:
    """Remove the files of bundles in *folder* whose process has died before they were complete."""
    for left in folder.glob(f".*{SUFFIX}.*{_NEW}"):
        pid = left.name.removesuffix(_NEW).rpartition(".")[2].partition("-")[0]
        if not pid.isdecimal() or not is_running(int(pid)):
            left.unlink(missing_ok=True)


@contextmanager
def _new_file(path: Path) -> Iterator[tempfile._TemporaryFileWrapper[bytes]]:
    """A file that only this user can read, beside *path*; removed at the end of the block, unless it was renamed."""
    # mkstemp makes it with mode 0600.
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name[:100]}.{os.getpid()}-", suffix=_NEW, delete=False
    ) as file:
        try:
            yield file
        finally:
            Path(file.name).unlink(missing_ok=True)


@contextmanager
def _paused(guest: Guest) -> Iterator[None]:
    """Pause *guest* for the block; one that is off, or was paused by its test, stays so."""
    # A thread that saves a guest does not use it: a reset that its test has not asked for stays out.
    vm = guest._own_power.machine if guest._own_power.is_on else None
    if vm is None:
        yield
        return
    is_ours = not vm.is_paused()
    if is_ours:
        try:
            vm.pause()
        except NotSupported:
            # What is copied of its disk may be older in one place than in another.
            is_ours = False
    try:
        yield
    finally:
        if is_ours:
            # If the hypervisor died meanwhile, the teardown reports that.
            with contextlib.suppress(XhyveError):
                vm.resume()


class _Lans:
    """The LANs that *guests* are on; each has the number of its switch."""

    def __init__(self, guests: Sequence[Guest]) -> None:
        found: dict[Switch, str] = {}
        for guest in guests:
            lans = guest._instance.lans
            found.update(zip(lans.switches, lans.names, strict=True))
        self._names = found
        self._numbers = {switch: number for number, switch in enumerate(found)}

    def place_of(self, guest: Guest) -> SavedPlace | None:
        """The place of *guest*; None if it is on no LAN."""
        lans, vm = guest._instance.lans, guest._power.machine if guest._power.is_on else None
        if lans.place is None:
            return None
        cards = tuple(
            SavedCard(self._numbers[switch], str(card.address), vm is not None and vm.is_lan_cable_pulled(number))
            for number, (switch, card) in enumerate(zip(lans.switches, lans.place.cards, strict=True))
        )
        return SavedPlace(lans.name, cards, lans.place.hosts)

    def describe(self) -> list[dict[str, Any]]:
        """The LANs as plain data."""
        described = []
        for switch, name in self._names.items():
            links: tuple[LinkState, ...] = ()
            # A switch that died may be the failure.
            with contextlib.suppress(LanFailed):
                links = switch.links()
            described.append(SavedLan(name, links).to_dict())
        return described


def _plan(
    guest: Guest, before: Sequence[Guest], lans: _Lans, checked: Path, stack: ExitStack
) -> tuple[SavedGuest, dict[tuple[int, int], Path]]:
    """What to save of *guest*, and the file of each layer of its disks."""
    machine, image = guest.machine, guest.image
    power = guest._own_power
    block = power.machine.block if power.is_on else None
    unplugged = frozenset() if block is None else block.unplugged
    disks: list[SavedDisk] = []
    files: dict[tuple[int, int], Path] = {}
    for place, disk in enumerate(machine.disks):
        saved, paths = _layers(disk, image, checked, stack)
        disks.append(replace(saved, plugged=place not in unplugged))
        files |= {(place, number): path for number, path in enumerate(paths)}
    snapshotter = guest._instance.hypervisor.snapshotter
    twice = sum(other.name == guest.name for other in before)
    plan = SavedGuest(
        key=f"{guest.name[:58]}-{twice + 1}" if twice else guest.name,
        name=guest.name,
        uuid=guest.uuid,
        cpus=machine.cpus,
        cpu=machine.cpu,
        memory=machine.memory,
        mac=machine.nics[0].mac,
        cmdline=machine.cmdline,
        graphics=machine.graphics,
        firmware=machine.firmware,
        image=_describe_image(image, machine.kernel, machine.initrd, checked),
        disks=tuple(disks),
        depends_on={} if snapshotter is None else _portable(snapshotter.depends_on(machine)),
        has_memory=snapshotter is not None and power.is_on and not machine.cdroms and len(machine.nics) == 1,
        agent=_agent_of(power),
        made=collect_evidence(guest, max_bytes=0).made,
        lan_macs=machine.lan_macs,
        place=lans.place_of(guest),
        faults=tuple(guest._faults.active.items()),
    )
    return plan, files


def _agent_of(power: Power) -> Mapping[str, Any] | None:
    """See `SavedGuest.agent`."""
    if not power.is_on or not power.machine.has_agent:
        return None
    # A guest that was restored from a snapshot has one, but how it was left is not known.
    return (power.started_by.agent if power.started_by is not None else None) or {}


def _portable(depends_on: dict[str, str]) -> dict[str, str]:
    """*depends_on* without the digest of the program's file: the same version elsewhere will do."""
    return {name: value for name, value in depends_on.items() if name != BUILD}


def _layers(disk: Disk, image: Image, checked: Path, stack: ExitStack) -> tuple[SavedDisk, list[Path]]:
    """The files of *disk*, from the top one down to that above the image's disk; all if it is not based on that."""
    chain = [disk.path, *backing_files(disk.path, disk.format)]
    # The first file is the guest's own, and never the image's.
    below = next((number for number, file in enumerate(chain[1:], 1) if _is_disk_of(image, file, checked)), None)
    if below is not None:
        return SavedDisk(("qcow2",) * below, over_image=True), chain[:below]
    if disk.path.stem == DISK and has_qemu_img():
        # A copy of the image's disk, of which some blocks are shared with it: only the others are saved.
        difference = stack.enter_context(_difference(disk, image))
        return SavedDisk(("qcow2",), over_image=True), [difference]
    # What a guest wrote at the beginning of a raw disk does not make it a qcow2 file.
    formats = ["raw" if disk.format == "raw" or read_qcow2_header(file) is None else "qcow2" for file in chain]
    return SavedDisk(tuple(formats), over_image=False), chain


def _is_disk_of(image: Image, file: Path, checked: Path) -> bool:
    """Whether *file* has the content of the image's disk: a template may be over a copy of it in another place."""
    if file.resolve() == image.disk.resolve():
        return True
    same_size = file.stat().st_size == image.disk.stat().st_size
    return same_size and known_digest(file, checked) == known_digest(image.disk, checked)


@contextmanager
def _difference(disk: Disk, image: Image) -> Iterator[Path]:
    """A qcow2 file with the clusters of *disk* that the image's disk does not have."""
    target = disk.path.with_name("difference.qcow2")
    target.unlink(missing_ok=True)
    create_overlay(disk.path, disk.format, target)
    try:
        done = run_qemu_img(
            *("rebase", "-U", "-q", "-f", "qcow2", "-b", str(image.disk.resolve()), "-F", image.format, str(target))
        )
        if done.returncode != 0:
            raise ImageError(f"cannot save {disk.path}: {done.stderr.strip() or 'qemu-img failed'}")
        yield target
    finally:
        target.unlink(missing_ok=True)


def _describe_image(image: Image, kernel: Path | None, initrd: Path | None, checked: Path) -> SavedImage:
    def file(path: Path | None) -> SavedFile | None:
        return None if path is None else SavedFile(str(path), known_digest(path, checked))

    return SavedImage(
        name=image.name,
        manifest=str(image.manifest),
        disk=SavedFile(str(image.disk), known_digest(image.disk, checked)),
        format=image.format,
        backing=tuple(known_digest(path, checked) for path in backing_files(image.disk, image.format)),
        kernel=file(kernel),
        initrd=file(initrd),
        user=image.user,
        host_keys=image.host_keys,
        login=describe_login(image),
        arch=image.arch,
    )


def _state_of(vm: VirtualMachine) -> Generator[bytes, None, None]:
    """The state of the paused machine, as the hypervisor writes it."""
    ours, theirs = os.pipe()
    failed: list[BaseException] = []

    def write() -> None:
        try:
            vm.save_state(Path(f"/dev/fd/{theirs}"))
        except BaseException as error:  # raised below
            failed.append(error)
        finally:
            # The hypervisor has a duplicate, which it closes when it has written all.
            os.close(theirs)

    writing = threading.Thread(target=write, name="xhyve-save", daemon=True)
    writing.start()
    try:
        with open(ours, "rb", buffering=0) as source:  # noqa: PTH123  # a descriptor
            while True:
                # A hypervisor that someone has stopped keeps its duplicate open.
                while not is_readable(source, _LOOK_SECONDS):
                    if failed:
                        raise failed[0]
                if not (chunk := source.read(_CHUNK)):
                    break
                yield chunk
    finally:
        writing.join(_END_SECONDS)
    if failed:
        raise failed[0]


def _content_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _console_of(guest: Guest) -> Iterator[bytes]:
    console = guest.console
    yield console.read_part(0, min(console.size, _MOST_CONSOLE))
