"""vfkit's command line: make it from a machine, and check what it cannot express.

The grammar is that of pkg/cmdline/cmdline.go, pkg/config/virtio.go and pkg/rest/rest.go in vfkit's sources.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

from pytest_xhyve.host.guest_folder import PIDFILE
from pytest_xhyve.hypervisors.links import link_without_comma
from pytest_xhyve.model.errors import NotSupported
from pytest_xhyve.model.machine import Machine

MAX_SOCKET_PATH = 103
"""The most bytes in the path of a Unix socket: sun_path of <sys/un.h> has 104 on macOS, with the NUL (unix(4))."""

LAN_FD = 20
"""The descriptor that vfkit has of the cable of the first card for LANs; those of the others follow."""

_REST_SOCKET = "rest"
_EFI_VARIABLES = "efi-variables"
_CONSOLE = "hvc0"
_SERIAL_PORT = re.compile(r"console=tty(?:S|AMA)\d+(?:,\S*)?")
_MIB = 1 << 20


def rest_socket(folder: Path) -> Path:
    """The socket of vfkit's REST interface in a guest's *folder*."""
    return folder / _REST_SOCKET


def has_rest(folder: Path) -> bool:
    """Whether a guest in *folder* has the REST interface: vfkit does not start if its socket's path is too long."""
    return len(os.fsencode(rest_socket(folder))) <= MAX_SOCKET_PATH


def argv_for(machine: Machine, folder: Path) -> list[str]:
    """The command line for *machine*, without the program; relative paths in it are relative to *folder*.

    Values of ``--device`` must not contain a comma, so disks outside of *folder* get a link there. For ``--kernel``,
    ``--initrd`` and ``--kernel-cmdline`` a comma has no meaning, which it has in ``--bootloader linux``.

    Args:
        machine: a machine that `check_machine` has accepted.
        folder: the guest's folder, in which vfkit runs.
    """
    disks = [link_without_comma(disk.path, folder, f"disk{number}") for number, disk in enumerate(machine.disks)]
    cdroms = [link_without_comma(path, folder, f"cdrom{number}") for number, path in enumerate(machine.cdroms)]
    devices = [
        # The first one is hvc0.
        "virtio-serial,stdio",
        "virtio-rng",
        *(f"virtio-net,nat{'' if nic.mac is None else f',mac={nic.mac}'}" for nic in machine.nics),
        # Not unixSocketPath=: a descriptor has no name that others could use, and no path that may be too long.
        *(f"virtio-net,fd={LAN_FD + number},mac={mac}" for number, mac in enumerate(machine.lan_macs)),
        *(f"virtio-blk,path={path}" for path in disks),
        *(f"virtio-blk,path={path},readonly" for path in cdroms),
    ]
    # fmt: off
    return [
        "--cpus", str(machine.cpus),
        "--memory", str(machine.memory // _MIB),
        "--log-level", "info",
        "--pidfile", str(folder / PIDFILE),
        *(["--restful-uri", f"unix://{quote(str(rest_socket(folder)))}"] if has_rest(folder) else []),
        *_boot_options(machine, folder),
        *(word for device in devices for word in ("--device", device)),
    ]
    # fmt: on


def check_machine(machine: Machine) -> None:
    """Check that a command line can express *machine*.

    Raises:
        NotSupported: vfkit does not support something; QEMU does.
    """
    if machine.firmware == "bios":
        raise NotSupported('vfkit has no BIOS; use firmware="uefi", or QEMU')
    if any(nic.network != "nat" for nic in machine.nics):
        raise NotSupported(
            f"vfkit cannot limit what a guest reaches (network={machine.nics[0].network!r}): it uses macOS's network "
            "in its shared mode only\n  use --xhyve-hypervisor=qemu, or --xhyve-network=nat"
        )
    # A machine that boots by firmware gets a card from the plugin, because boot loaders write to the screen. The
    # framework's firmware writes to the console.
    if machine.graphics and machine.firmware is None:
        raise NotSupported("vfkit has no graphics card that the plugin can read; use QEMU for one")
    if any(disk.format != "raw" for disk in machine.disks):
        raise NotSupported("vfkit supports only raw disks; use QEMU for qcow2")
    if machine.firmware is None and machine.initrd is None:
        # pkg/vf/bootloader.go passes the option on, and the framework wants a file.
        raise NotSupported("vfkit cannot boot a kernel without an initial RAM disk; use QEMU, or an image with one")


def _boot_options(machine: Machine, folder: Path) -> list[str]:
    if machine.firmware == "uefi":
        create = [] if (folder / _EFI_VARIABLES).exists() else ["create"]
        return ["--bootloader", ",".join(["efi", f"variable-store={_EFI_VARIABLES}", *create])]
    # fmt: off
    return [
        "--kernel", str(machine.kernel),
        "--initrd", str(machine.initrd),
        "--kernel-cmdline", with_console(machine.cmdline),
    ]
    # fmt: on


def with_console(cmdline: str) -> str:
    """*cmdline* with vfkit's console in the place of serial ports, which its machines do not have."""
    ours = f"console={_CONSOLE}"
    words = [ours if _SERIAL_PORT.fullmatch(word) else word for word in cmdline.split(" ")]
    first = words.index(ours) if ours in words else len(words)
    return " ".join(word for number, word in enumerate(words) if word != ours or number == first)
