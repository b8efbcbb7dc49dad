"""Checks for any host: QEMU, and the folder that images and clones are in."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_xhyve.doctor.findings import Check, Finding
from pytest_xhyve.host import clone
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.hypervisors.base import HypervisorInfo
from pytest_xhyve.hypervisors.qemu.driver import Qemu
from pytest_xhyve.model.errors import HypervisorNotFound, ImageError, XhyveError
from pytest_xhyve.model.machine import Disk
from pytest_xhyve.model.settings import EMULATION_FACTOR
from pytest_xhyve.model.values import format_size

_ALL = frozenset({"qemu", "xhyve"})
_QEMU = frozenset({"qemu"})
# Building an image of the catalog takes this much, with what mmdebstrap unpacks on its way.
_ENOUGH_BYTES = 4 << 30

AskQemu = Callable[[Path], HypervisorInfo]


def ask_qemu(cache: Path) -> HypervisorInfo:
    """What the plugin finds out about QEMU when nothing was asked for, remembered in the folder *cache*.

    Raises:
        HypervisorNotFound: there is none.
    """
    return Qemu(executable=None, accel="auto", cache=cache).info


def checks(home: Home | None, platform: str) -> list[Check]:
    """The checks of this module.

    Args:
        home: the plugin's folder, which need not be there; None where nobody knows where it would be.
        platform: as `sys.platform` has it.
    """
    return [
        Check("QEMU", lambda: check_qemu(home, platform)),
        Check("cache folder", lambda: check_folder(home, platform)),
    ]


def check_qemu(home: Home | None, platform: str, ask: AskQemu = ask_qemu) -> Iterator[Finding]:
    """Whether QEMU is here, and what runs the guests' CPUs."""
    try:
        # Looked at anew: what is remembered holds until the host boots, and a cure may have been tried since.
        with tempfile.TemporaryDirectory(prefix="pytest-xhyve-") as folder:
            info = ask(Path(folder))
    except HypervisorNotFound as error:
        yield Finding("QEMU", "problem", str(error).splitlines()[0], _install_qemu(platform), _QEMU)
        return
    except (XhyveError, OSError) as error:
        yield Finding("QEMU", "problem", f"cannot be run: {error}", _install_qemu(platform), _QEMU)
        return
    seen = f"{info.version}, {info.acceleration} ({info.reason})"
    if info.emulated:
        hint, cure = _accelerate(info.reason, platform)
        seen += f"; the CPU is emulated, and timeouts are {EMULATION_FACTOR:g} times as long; {hint}"
        yield Finding("QEMU", "warning", seen, cure)
    else:
        yield Finding("QEMU", "ok", seen)
    if home is not None:
        yield from _check_memory(home, info, ask)


def _check_memory(home: Home, info: HypervisorInfo, ask: AskQemu) -> Iterator[Finding]:
    """Whether the plugin remembers something else than is true by now."""
    memory = home.path / "acceleration"
    try:
        if not memory.is_dir():
            return
        remembered = ask(memory)
    except OSError:
        # That the folder is not ours is another finding.
        return
    if remembered.acceleration != info.acceleration:
        yield Finding(
            "QEMU's acceleration",
            "warning",
            f"runs remember {remembered.acceleration} ({remembered.reason}), which is no longer true",
            f"rm -r {shlex.quote(str(memory))}",
        )


def _install_qemu(platform: str) -> str:
    return "brew install qemu" if platform == "darwin" else "sudo apt install qemu-system-x86 qemu-utils"


def _accelerate(reason: str, platform: str) -> tuple[str, str]:
    """What it takes to have the CPU run by itself, and the commands."""
    if platform == "darwin":
        return "a Mac that says 1 here can do better, for guests of its own architecture:", "sysctl kern.hv_support"
    if "may not open /dev/kvm" in reason:
        return "to be let in:", 'sudo usermod -aG kvm "$USER"\nnewgrp kvm'
    if "/dev/kvm does not exist" in reason:
        return (
            "where the first says 0, switch virtualization on in the firmware, or in a virtual machine's host:",
            "grep -Ec 'vmx|svm' /proc/cpuinfo\nsudo modprobe -a kvm_intel kvm_amd",
        )
    return "in a virtual machine it is for its host to mend; the kernel may say more:", "sudo dmesg | grep -i kvm"


def nearest_folder(path: Path) -> Path:
    """*path* if it is a folder that we may see, or else the nearest one above that is."""
    return next(folder for folder in (path, *path.parents) if _is_so(folder.is_dir))


def _is_so(ask: Callable[[], bool]) -> bool:
    """The answer of *ask*; no where we may not know."""
    try:
        return ask()
    except OSError:
        return False


def check_folder(home: Home | None, platform: str) -> Iterator[Finding]:
    """Whether the plugin's folder can be written, has room, and clones cheaply."""
    title = "cache folder"
    if home is None:
        seen = f"it would be in the home folder of a user who has none, or is none here (HOME, {HOME_VARIABLE})"
        yield Finding(title, "problem", seen, _elsewhere(), _ALL)
        return
    place = nearest_folder(home.path)
    # A file in the place of a folder, which mkdir would stumble over.
    blocked = next((path for path in (home.path, *home.path.parents) if _is_so(path.is_file)), None)
    if blocked is not None:
        yield Finding(title, "problem", f"{home.path}: {blocked} is a file", _elsewhere(), _ALL)
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".pytest-xhyve-", dir=place) as folder:
            cloning = _look_at_cloning(Path(folder), platform)
    except OSError as error:
        yield Finding(title, "problem", f"{home.path} cannot be written: {error.strerror}", _elsewhere(), _ALL)
    else:
        yield Finding(title, "ok", f"{home.path} can be written")
        yield cloning
    yield from _check_space(place)


def _elsewhere() -> str:
    return f"export {HOME_VARIABLE}=/a/folder/that/you/may/write"


def _check_space(place: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(place).free
    seen = f"{format_size(free)} free"
    if free < _ENOUGH_BYTES:
        seen += f"; building an image takes up to {_ENOUGH_BYTES >> 30} GiB"
        yield Finding("disk space", "warning", seen, f"df -h {shlex.quote(str(place))}\n{_elsewhere()}")
    else:
        yield Finding("disk space", "ok", seen)


def _look_at_cloning(folder: Path, platform: str) -> Finding:
    """Which way of cloning is the first that works in *folder*, tried in the plugin's order."""
    source = Disk(folder / "image")
    source.path.write_bytes(b"\1" * 4096)
    ways: tuple[tuple[str, Callable[[Path], None]], ...] = (
        ("clonefile, at no cost", lambda target: clone.clone_by_clonefile(source.path, target)),
        ("shared extents (FICLONE), at no cost", lambda target: clone.clone_by_reflink(source.path, target)),
        ("qcow2 overlays, at no cost", lambda target: clone.clone_by_overlay(source, target)),
    )
    for number, (name, way) in enumerate(ways):
        try:
            way(folder / f"clone{number}")
        except clone.CloneMethodUnavailable:
            continue
        except ImageError as error:
            return Finding("cloning", "problem", str(error), _install_qemu(platform), _QEMU)
        return Finding("cloning", "ok", name)
    return Finding(
        "cloning",
        "warning",
        "by copying, which takes long for large disks; it takes qemu-img, or btrfs, XFS or APFS for the cache folder",
        _install_qemu(platform),
    )
