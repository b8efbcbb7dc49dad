"""The command line of xhyve: what a machine becomes, and what cannot be said in it.

Grammar and quirks are those of src/xhyve.c, src/pci_emul.c, src/block_if.c and src/firmware/kexec.c in its sources.
"""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

from pytest_xhyve.formats.bzimage import read_kernel_header
from pytest_xhyve.host.guardian_process import PIDFILE
from pytest_xhyve.host.processes import find_processes
from pytest_xhyve.hypervisors.xhyve.build import Build
from pytest_xhyve.model.errors import ConfigurationError, HypervisorExited, ImageError, NotSupported
from pytest_xhyve.model.machine import Machine

_MIB = 1 << 20
_MOST_CPUS = 16  # VM_MAXCPU
_LOW_MEMORY = 3 << 30
_PROTOCOL = 0x020A
_KERNEL_AT = 1 << 20
# The network card is made before the disks are opened and before the serial port: see Xhyve._await_set_up.
_NIC_SLOT, _RANDOM_SLOT, _FIRST_DISK_SLOT, _LPC_SLOT = 2, 3, 4, 31


def argv_for(machine: Machine, build: Build, folder: Path) -> list[str]:
    """The command line for *machine*, without the program; relative paths in it are in *folder*.

    There may be no comma in a path, so the kernel, and disks that lie elsewhere, get a link in *folder*.

    Args:
        machine: one that `check_machine` has found nothing against.
        build: which program it is for.
        folder: the guest's; its process is started there.
    """
    kernel = _link(machine.kernel, folder, "kernel")
    initrd = "" if machine.initrd is None else _link(machine.initrd, folder, "initrd")
    disks = [_link(disk.path, folder, f"disk{number}") for number, disk in enumerate(machine.disks)]
    cdroms = [_link(path, folder, f"cdrom{number}") for number, path in enumerate(machine.cdroms)]
    drives = [*(f"virtio-blk,{path}" for path in disks), *(f"ahci-cd,{path},ro" for path in cdroms)]
    # fmt: off
    argv = [
        "-A",
        # Otherwise the clock holds the host's local time.
        "-u",
        "-c", str(machine.cpus),
        "-m", f"{machine.memory // _MIB}M",
        "-U", str(machine.uuid),
        "-s", "0:0,hostbridge",
        *(word for _ in machine.nics for word in ("-s", f"{_NIC_SLOT}:0,virtio-net")),
        "-s", f"{_RANDOM_SLOT}:0,virtio-rnd",
        *(word for slot, drive in enumerate(drives, _FIRST_DISK_SLOT) for word in ("-s", f"{slot}:0,{drive}")),
        "-s", f"{_LPC_SLOT},lpc",
        # Descriptor 0, in both directions.
        "-l", "com1,stdio",
        "-f", f"kexec,{kernel},{initrd},{machine.cmdline}",
    ]
    # fmt: on
    if build.writes_pidfile:
        return [*argv, "-F", str(folder / PIDFILE)]
    # A word that is no option is passed over; this one tells others whose process it is.
    return [*argv, str(folder / PIDFILE)]


def probe_argv(uuid: UUID, build: Build) -> list[str]:
    """The command line of a machine that makes its network card and ends.

    ``-M`` has it print the card's address and end. Without that option it ends, by abort(3), because its kernel is
    none, which it sees when all devices are made.
    """
    devices = ["-s", "0:0,hostbridge", "-s", f"{_NIC_SLOT}:0,virtio-net", "-s", f"{_LPC_SLOT},lpc"]
    ask = ["-M"] if build.tells_mac else []
    return ["-A", *ask, "-m", "64M", "-U", str(uuid), *devices, "-f", f"kexec,{os.devnull},,"]


def check_machine(machine: Machine, build: Build) -> None:
    """See that *machine* can be said in a command line, and that its kernel will be taken.

    xhyve itself notices some of this only after it has made the network card, and then dies by abort(3).

    Raises:
        NotSupported: *build* has no such thing; QEMU has.
        ConfigurationError: a value that is out of range.
        ImageError: the kernel is not one that it loads.
    """
    name = build.name
    if machine.cpus > _MOST_CPUS:
        raise NotSupported(f"{name} gives a guest {_MOST_CPUS} CPUs at most, not {machine.cpus}; QEMU gives more")
    if len(machine.nics) > 1:
        raise NotSupported(f"{name} gives a guest one network card, not {len(machine.nics)}; QEMU gives several")
    if any(disk.format != "raw" for disk in machine.disks):
        raise NotSupported(f"{name} takes raw disks only; QEMU takes qcow2 too")
    most = _LPC_SLOT - _FIRST_DISK_SLOT
    if len(machine.disks) + len(machine.cdroms) > most:
        raise NotSupported(f"{name} gives a guest {most} drives at most; QEMU gives more")
    if machine.memory < _MIB:
        raise ConfigurationError(f"a guest under {name} has at least 1M of memory, not {machine.memory} bytes")
    for disk in machine.disks:
        # Where it cannot write it would open the disk for reading, and the guest would meet errors.
        if not os.access(disk.path, os.W_OK):
            raise ImageError(f"{disk.path} may not be written, and {name} would not say so")
    _check_kernel(machine, name)


def remove_stale_pidfile(path: Path) -> None:
    """Remove the file of a process that was killed: xhyve does not start where there is one.

    Raises:
        HypervisorExited: its process lives.
    """
    try:
        owner = path.read_text()
    except FileNotFoundError:
        return
    # Its number may be another process's by now.
    if any(str(process.pid) == owner for process in find_processes(str(path))):
        raise HypervisorExited(f"the guest's hypervisor still runs (process {owner}); kill it first")
    path.unlink()


def _check_kernel(machine: Machine, name: str) -> None:
    header = read_kernel_header(machine.kernel)
    if header is None or not header.setup_sectors or not header.loaded_high or header.protocol < _PROTOCOL:
        what = (
            "is no bzImage" if header is None else f"has boot protocol {header.protocol >> 8}.{header.protocol & 255}"
        )
        raise ImageError(f"{name} cannot boot {machine.kernel}: it {what}, and a bzImage of protocol 2.10 is needed")
    size = len(os.fsencode(machine.cmdline))
    if size + 1 > header.cmdline_size:
        raise ImageError(
            f"the kernel's command line has {size} bytes, and {machine.kernel} takes {header.cmdline_size}"
        )
    initrd = machine.initrd.stat().st_size if machine.initrd is not None else 0
    needed = _KERNEL_AT + header.init_size + initrd
    if needed > min(machine.memory, _LOW_MEMORY):
        raise ImageError(
            f"{machine.kernel} and its initial RAM disk need {-(-needed // _MIB)}M, and the guest has "
            f"{machine.memory // _MIB}M"
        )


def _link(path: Path, folder: Path, name: str) -> str:
    """A path from *folder* that has no comma in it."""
    if path.parent == folder and "," not in path.name:
        return path.name
    link = folder / f"link-to-{name}"
    link.unlink(missing_ok=True)
    link.symlink_to(path.absolute())
    return link.name
