"""Checks for any host: QEMU, and the cache folder."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_xhyve.doctor.findings import Check, Finding
from pytest_xhyve.host import clone
from pytest_xhyve.host.disk import find_file_system
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.hypervisors.base import HypervisorInfo
from pytest_xhyve.hypervisors.qemu.driver import Qemu
from pytest_xhyve.model.architecture import host_architecture
from pytest_xhyve.model.errors import HypervisorNotFound, ImageError, XhyveError
from pytest_xhyve.model.machine import Disk
from pytest_xhyve.model.settings import EMULATION_FACTOR
from pytest_xhyve.model.values import format_size

_ALL = frozenset({"qemu", "vfkit", "xhyve"})
_QEMU = frozenset({"qemu"})
# Building an image of the catalog takes this much, including mmdebstrap's temporary files.
_ENOUGH_BYTES = 4 << 30

# The beginnings of their names in Linux and macOS. flock(2), "NFS details" and "CIFS details": locks are emulated.
_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "9p", "afs", "afpfs", "ceph", "fuse.sshfs", "glusterfs", "lustre")

AskQemu = Callable[[Path], HypervisorInfo]


def ask_qemu(cache: Path) -> HypervisorInfo:
    """The facts about QEMU with default options, for guests of this host's architecture.

    Args:
        cache: the folder for the results.

    Raises:
        HypervisorNotFound: QEMU is not found.
    """
    return Qemu(executable=None, accel="auto", cache=cache, architecture=host_architecture()).info


def checks(home: Home | None, platform: str) -> list[Check]:
    """The checks of this module.

    Args:
        home: the cache folder, which may be missing; None if its path is unknown.
        platform: the value of `sys.platform`.
    """
    return [
        Check("QEMU", lambda: check_qemu(home, platform)),
        Check("QEMU's sandbox", lambda: check_sandbox(platform)),
        Check("cache folder", lambda: check_folder(home, platform)),
    ]


def check_qemu(home: Home | None, platform: str, ask: AskQemu = ask_qemu) -> Iterator[Finding]:
    """Check that QEMU is installed, and which acceleration it has."""
    try:
        # An empty cache: cached results are valid until the host boots, but the user may have tried a fix since.
        with tempfile.TemporaryDirectory(prefix="pytest-xhyve-") as folder:
            info = ask(Path(folder))
    except HypervisorNotFound as error:
        yield Finding("QEMU", "problem", str(error).splitlines()[0], _install_qemu(platform), _QEMU)
        return
    except (XhyveError, OSError) as error:
        yield Finding("QEMU", "problem", f"cannot run QEMU: {error}", _install_qemu(platform), _QEMU)
        return
    detail = f"{info.version}, {info.acceleration} ({info.reason})"
    if info.emulated:
        hint, fix = _accelerate(info.reason, platform)
        detail += f"; the CPU is emulated, and timeouts are {EMULATION_FACTOR:g} times as long; {hint}"
        yield Finding("QEMU", "warning", detail, fix)
    else:
        yield Finding("QEMU", "ok", detail)
    if home is not None:
        yield from _check_memory(home, info, ask)


def check_sandbox(platform: str, executable: str | None = None) -> Iterator[Finding]:
    """Check that QEMU can run guests behind its seccomp filter, which only Linux has."""
    if platform != "linux":
        return
    with contextlib.suppress(HypervisorNotFound), tempfile.TemporaryDirectory(prefix="pytest-xhyve-") as folder:
        qemu = Qemu(executable=executable, accel="tcg", cache=Path(folder), architecture=host_architecture())
        sandbox = qemu.sandbox
        if sandbox.works:
            yield Finding("QEMU's sandbox", "ok", sandbox.reason)
        else:
            detail = f"guests run without the seccomp filter (-sandbox): {sandbox.reason}"
            yield Finding("QEMU's sandbox", "warning", detail, "install a QEMU that was built with seccomp")


def _check_memory(home: Home, info: HypervisorInfo, ask: AskQemu) -> Iterator[Finding]:
    """Check that the plugin's cached acceleration is still valid."""
    memory = home.path / "acceleration"
    try:
        if not memory.is_dir():
            return
        remembered = ask(memory)
    except OSError:
        # Another check reports a folder without access.
        return
    if remembered.acceleration != info.acceleration:
        yield Finding(
            "QEMU's acceleration",
            "warning",
            f"runs use the cached result {remembered.acceleration} ({remembered.reason}), which is not valid any more",
            f"rm -r {shlex.quote(str(memory))}",
        )


def _install_qemu(platform: str) -> str:
    packages = f"{host_architecture().package} qemu-utils"
    return "brew install qemu" if platform == "darwin" else f"sudo apt install {packages}"


def _accelerate(reason: str, platform: str) -> tuple[str, str]:
    """How to get hardware acceleration: a hint, and the commands."""
    native = host_architecture()
    if f"guests are {native.name}" in reason:
        return (
            f"only a host whose processor is {native.name} accelerates them; this prints its architecture:",
            "uname -m",
        )
    if platform == "darwin":
        return "if this prints 1, the Mac can accelerate guests of its own architecture:", "sysctl kern.hv_support"
    if "may not open /dev/kvm" in reason:
        return "to get access:", 'sudo usermod -aG kvm "$USER"\nnewgrp kvm'
    if "/dev/kvm does not exist" in reason:
        return native.without_kvm
    return "in a virtual machine, its host must be fixed; the kernel's log may show more:", "sudo dmesg | grep -i kvm"


def nearest_folder(path: Path) -> Path:
    """*path* if it is a folder that this user may see, or else the nearest such folder above it."""
    return next(folder for folder in (path, *path.parents) if _is_so(folder.is_dir))


def _is_so(ask: Callable[[], bool]) -> bool:
    """The answer of *ask*; False if this user may not know."""
    try:
        return ask()
    except OSError:
        return False


def check_folder(home: Home | None, platform: str) -> Iterator[Finding]:
    """Check that the cache folder is writable, that its disk has space, and how fast it clones."""
    title = "cache folder"
    if home is None:
        detail = f"its path depends on the home folder of a user who is unknown or has none (HOME, {HOME_VARIABLE})"
        yield Finding(title, "problem", detail, _elsewhere(), _ALL)
        return
    place = nearest_folder(home.path)
    # If one of these is a file, mkdir would fail.
    blocked = next((path for path in (home.path, *home.path.parents) if _is_so(path.is_file)), None)
    if blocked is not None:
        yield Finding(title, "problem", f"{home.path}: {blocked} is a file", _elsewhere(), _ALL)
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".pytest-xhyve-", dir=place) as folder:
            cloning = _look_at_cloning(Path(folder), platform)
    except OSError as error:
        yield Finding(title, "problem", f"cannot write to {home.path}: {error.strerror}", _elsewhere(), _ALL)
    else:
        yield Finding(title, "ok", f"{home.path} is writable")
        yield cloning
        yield from check_locks(place)
    yield from _check_space(place)


def _elsewhere() -> str:
    return f"export {HOME_VARIABLE}=/a/folder/that/you/may/write"


def check_locks(place: Path, find: Callable[[Path], str] = find_file_system) -> Iterator[Finding]:
    """Check that *place* is on a local disk: the slots of guests and the runs are locks on files (flock(2))."""
    system = find(place)
    if system.startswith(_NETWORK_FILE_SYSTEMS):
        detail = f"the cache folder is on a network file system ({system}), whose file locks may fail or be slow"
        yield Finding("file locks", "warning", detail, f"df -h {shlex.quote(str(place))}\n{_elsewhere()}")


def _check_space(place: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(place).free
    detail = f"{format_size(free)} free"
    if free < _ENOUGH_BYTES:
        detail += f"; building an image takes up to {_ENOUGH_BYTES >> 30} GiB"
        yield Finding("disk space", "warning", detail, f"df -h {shlex.quote(str(place))}\n{_elsewhere()}")
    else:
        yield Finding("disk space", "ok", detail)


def _look_at_cloning(folder: Path, platform: str) -> Finding:
    """Check which method of cloning works in *folder*; the order is the plugin's."""
    source = Disk(folder / "image")
    source.path.write_bytes(b"\1" * 4096)
    methods: tuple[tuple[str, Callable[[Path], None]], ...] = (
        ("clonefile, without copying", lambda target: clone.clone_by_clonefile(source.path, target)),
        ("shared extents (FICLONE), without copying", lambda target: clone.clone_by_reflink(source.path, target)),
        ("qcow2 overlays, without copying", lambda target: clone.clone_by_overlay(source, target)),
    )
    for number, (name, method) in enumerate(methods):
        try:
            method(folder / f"clone{number}")
        except clone.CloneMethodUnavailable:
            continue
        except ImageError as error:
            return Finding("cloning", "problem", str(error), _install_qemu(platform), _QEMU)
        return Finding("cloning", "ok", name)
    return Finding(
        "cloning",
        "warning",
        "by copying, which is slow for large disks; install qemu-img, or use btrfs, XFS or APFS for the cache folder",
        _install_qemu(platform),
    )
