"""The command line of xhyve: make it from a machine, and check what it cannot express.

The grammar and its peculiarities are those of src/xhyve.c, src/pci_emul.c, src/block_if.c and src/firmware/kexec.c in
xhyve's sources.
"""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

from pytest_xhyve.formats.bzimage import read_kernel_header
from pytest_xhyve.host.guest_folder import PIDFILE
from pytest_xhyve.host.processes import find_processes
from pytest_xhyve.hypervisors.links import link_without_comma
from pytest_xhyve.hypervisors.xhyve.build import Build
from pytest_xhyve.model.errors import ConfigurationError, HypervisorExited, ImageError, NotSupported
from pytest_xhyve.model.machine import Machine

_MIB = 1 << 20
# VM_MAXCPU of vmm_common.h.
_MAX_CPUS = {"xhyve": 16, "hyperkit": 64}
_LOW_MEMORY = 3 << 30
_PROTOCOL = 0x020A
# xhyve loads a kernel at 1 MiB, and the kernel itself moves to the next multiple of its alignment, which is 2 MiB.
_KERNEL_AT = 2 << 20
# xhyve creates the network card before it opens the disks and the serial port: see Xhyve._wait_for_network_card.
_NIC_SLOT, _RANDOM_SLOT, _FIRST_DISK_SLOT, _LPC_SLOT = 2, 3, 4, 31


def argv_for(machine: Machine, build: Build, folder: Path) -> list[str]:
    """The command line for *machine*, without the program; relative paths in it are relative to *folder*.

    A path must not contain a comma, so the kernel, and disks outside of *folder*, get a link in *folder*.

    Args:
        machine: a machine that `check_machine` has accepted.
        build: the program that it is for.
        folder: the guest's folder, in which xhyve runs.
    """
    assert machine.kernel is not None
    kernel = link_without_comma(machine.kernel, folder, "kernel")
    initrd = "" if machine.initrd is None else link_without_comma(machine.initrd, folder, "initrd")
    disks = [link_without_comma(disk.path, folder, f"disk{number}") for number, disk in enumerate(machine.disks)]
    cdroms = [link_without_comma(path, folder, f"cdrom{number}") for number, path in enumerate(machine.cdroms)]
    drives = [*(f"virtio-blk,{path}" for path in disks), *(f"ahci-cd,{path},ro" for path in cdroms)]
    # fmt: off
    argv = [
        "-A",
        # Without -u, the guest's clock has the host's local time.
        "-u",
        "-c", str(machine.cpus),
        "-m", f"{machine.memory // _MIB}M",
        "-U", str(machine.uuid),
        "-s", "0:0,hostbridge",
        *(argument for _ in machine.nics for argument in ("-s", f"{_NIC_SLOT}:0,virtio-net")),
        "-s", f"{_RANDOM_SLOT}:0,virtio-rnd",
        *(argument for slot, drive in enumerate(drives, _FIRST_DISK_SLOT) for argument in ("-s", f"{slot}:0,{drive}")),
        "-s", f"{_LPC_SLOT},lpc",
        # stdio is descriptor 0, in both directions.
        "-l", "com1,stdio",
        "-f", f"kexec,{kernel},{initrd},{machine.cmdline}",
    ]
    # fmt: on
    if build.writes_pidfile:
        return [*argv, "-F", str(folder / PIDFILE)]
    # xhyve ignores an argument that is not an option; other processes identify the guest by this one.
    return [*argv, str(folder / PIDFILE)]


def probe_argv(uuid: UUID, build: Build) -> list[str]:
    """The command line of a machine that creates its network card and exits.

    With ``-M``, xhyve prints the card's address and exits. Without that option, it exits by abort(3), because its
    kernel is not valid; it checks that only after it has created all devices.
    """
    devices = ["-s", "0:0,hostbridge", "-s", f"{_NIC_SLOT}:0,virtio-net", "-s", f"{_LPC_SLOT},lpc"]
    print_mac = ["-M"] if build.reports_mac else []
    return ["-A", *print_mac, "-m", "64M", "-U", str(uuid), *devices, "-f", f"kexec,{os.devnull},,"]


def check_machine(machine: Machine, build: Build) -> None:
    """Check that a command line can express *machine*, and that xhyve can load its kernel.

    xhyve itself notices some problems only after it has created the network card, and then exits by abort(3).

    Raises:
        NotSupported: *build* does not support something; QEMU does.
        ConfigurationError: a value is out of range.
        ImageError: xhyve cannot load the kernel, or this user may not write to a disk.
    """
    name = build.name
    if machine.firmware == "bios":
        raise NotSupported(f'{name} has no BIOS: it loads a kernel itself; use QEMU for firmware="bios"')
    if machine.firmware is not None:
        # Its -l bootrom takes a firmware that was built for bhyve (pci_lpc.c, bootrom.c).
        raise NotSupported(f'the plugin has no UEFI firmware for {name}; use QEMU for firmware="uefi"')
    if machine.cpus > _MAX_CPUS[name]:
        raise NotSupported(f"{name} supports at most {_MAX_CPUS[name]} CPUs, not {machine.cpus}; use QEMU for more")
    if "acpi=off" in machine.cmdline.split():
        # machyve/xhyve#144, #161.
        raise NotSupported(
            f"the kernel's command line contains acpi=off, with which Linux 4.15 and later hangs under {name}; without "
            "ACPI, the guest could not turn itself off either\n  remove the word from cmdline in the manifest"
        )
    if any(nic.network != "nat" for nic in machine.nics):
        raise NotSupported(
            f"{name} cannot limit what a guest reaches (network={machine.nics[0].network!r}): it uses "
            "macOS's network in its shared mode only\n"
            "  use --xhyve-hypervisor=qemu, or --xhyve-network=nat"
        )
    if len(machine.nics) > 1:
        raise NotSupported(f"{name} supports one network card, not {len(machine.nics)}; use QEMU for more")
    if machine.graphics:
        raise NotSupported(f"{name} has no graphics card that the plugin can read; use QEMU for one")
    if any(disk.format != "raw" for disk in machine.disks):
        raise NotSupported(f"{name} supports only raw disks; use QEMU for qcow2")
    max_drives = _LPC_SLOT - _FIRST_DISK_SLOT
    if len(machine.disks) + len(machine.cdroms) > max_drives:
        raise NotSupported(f"{name} supports at most {max_drives} drives; use QEMU for more")
    if machine.memory < _MIB:
        raise ConfigurationError(f"a guest under {name} needs at least 1M of memory, not {machine.memory} bytes")
    for disk in machine.disks:
        # xhyve opens a disk read-only if it cannot write to it; the guest would then get errors.
        if not os.access(disk.path, os.W_OK):
            raise ImageError(f"this user may not write to {disk.path}, and {name} would not report that")
    _check_kernel(machine, name)


def remove_stale_pidfile(path: Path) -> None:
    """Remove the pidfile of a process that was killed: xhyve does not start if the file exists.

    Raises:
        HypervisorExited: the process still runs.
    """
    try:
        owner = path.read_text()
    except FileNotFoundError:
        return
    # Another process may have got this process id since.
    if any(str(process.pid) == owner for process in find_processes(str(path))):
        raise HypervisorExited(f"the guest's hypervisor still runs (process {owner}); kill it first")
    path.unlink()


def _check_kernel(machine: Machine, name: str) -> None:
    assert machine.kernel is not None
    header = read_kernel_header(machine.kernel)
    if header is None or not header.setup_sectors or not header.loaded_high or header.protocol < _PROTOCOL:
        problem = (
            "is not a bzImage"
            if header is None
            else f"has boot protocol {header.protocol >> 8}.{header.protocol & 255}"
        )
        raise ImageError(
            f"{name} cannot boot {machine.kernel}: it {problem}, but {name} needs a bzImage of protocol 2.10 or later"
        )
    size = len(os.fsencode(machine.cmdline))
    if size + 1 > header.cmdline_size:
        raise ImageError(
            f"the kernel's command line has {size} bytes, but {machine.kernel} accepts at most {header.cmdline_size}"
        )
    initrd = machine.initrd.stat().st_size if machine.initrd is not None else 0
    needed = _KERNEL_AT + header.init_size + initrd
    if needed > min(machine.memory, _LOW_MEMORY):
        raise ImageError(
            f"{machine.kernel} and its initial RAM disk need {-(-needed // _MIB)}M of memory, but the guest has "
            f"{machine.memory // _MIB}M"
        )
