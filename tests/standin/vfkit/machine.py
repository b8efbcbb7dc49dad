"""vfkit from its command line to its guest's first instruction, in the order of cmd/vfkit/main.go in its sources."""

from __future__ import annotations

import errno
import os
import socket
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from standin.commandline import NotSimulated
from standin.process import Process
from standin.vfkit.devices import Device, check_timesync, read_bootloader, read_device
from standin.vfkit.flags import Ended, Flags, failed, parse_flags
from standin.vfkit.guest import Guest
from standin.vfkit.log import write
from standin.vfkit.rest import socket_path
from standin.vmnet import open_tap

_EX_SOFTWARE = 70
# QEMU's, of Debian's package ovmf.
_FIRMWARE = ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")
_MIB = 1 << 20
_VIRTIO = "disable-modern=off,disable-legacy=on"


def main(argv: Sequence[str]) -> NoReturn:
    """Be a vfkit."""
    process = Process()
    try:
        _run(parse_flags(argv[1:]), process)
    except Ended as ended:
        process.print(ended.stdout)
        process.say(ended.stderr)
        process.exit(ended.code)
    except NotSimulated as missing:
        process.say(f"this is no vfkit but a stand-in, and cannot do this: {missing}\n")
        process.exit(_EX_SOFTWARE)
    except Exception:
        # Python would end with code 1, which could also be vfkit's.
        sys.excepthook(*sys.exc_info())
        process.exit(_EX_SOFTWARE)


def read_configuration(flags: Flags) -> tuple[Device, list[Device]]:
    """The boot loader and the devices of the command line.

    Raises:
        Ended: vfkit does not take something; what comes before has had its effect.
    """
    if flags.log_level not in ("", "debug", "info", "error"):
        raise failed(f"unknown log level: {flags.log_level}")
    bootloader = read_bootloader(flags)
    check_timesync(flags.timesync)
    if flags.pidfile:
        Path(flags.pidfile).write_text(str(os.getpid()))
    devices = [read_device(text) for text in flags.devices]
    if "," in flags.ignition:
        raise failed("ignition only accepts one option in command line argument")
    return bootloader, devices


def _run(flags: Flags, process: Process) -> NoReturn:
    bootloader, devices = read_configuration(flags)
    write("info", "virtual machine parameters:", process)
    machine = _Machine(process)
    machine.add_bootloader(bootloader)
    for device in devices:
        machine.add(device)
    rest = socket_path(flags.restful_uri)
    if flags.nested or flags.gui or flags.ignition or flags.timesync or flags.cloud_init:
        raise NotSimulated("--nested, --gui, --ignition, --timesync, --cloud-init")
    configuration = {
        "vcpus": flags.cpus,
        "memoryBytes": flags.memory * _MIB,
        "bootloader": {"kind": f"{bootloader.kind}Bootloader"} | bootloader.options,
        "devices": [{"kind": device.kind.replace("-", "")} | device.options for device in devices],
    }
    arguments = ["-smp", str(flags.cpus), "-m", f"{flags.memory}M", *machine.arguments]
    Guest(arguments, machine.files, machine.console, configuration, process).run(rest)


class _Machine:
    """QEMU's arguments for vfkit's devices.

    Attributes:
        arguments: of its command line.
        files: descriptors that it gets.
        console: the other end of the guest's console.
    """

    def __init__(self, process: Process) -> None:
        self.arguments: list[str] = []
        self.files: list[int] = []
        self.console: socket.socket | None = None
        self._process = process

    def add_bootloader(self, bootloader: Device) -> None:
        if bootloader.kind == "efi":
            self._add_firmware(bootloader.options)
            return
        if bootloader.kind != "linux":
            raise NotSimulated(f"--bootloader {bootloader.kind}")
        for key, what in (("kernel", "linux kernel"), ("initrd", "initial RAM disk")):
            path = bootloader.options.get(key, "")
            if not Path(path).is_file():
                # bootloader.go of github.com/Code-Hex/vz.
                raise failed(f"invalid {what} path: stat {path}: no such file or directory")
            self.arguments += [f"-{key}", path]
        self.arguments += ["-append", bootloader.options.get("cmdline", "")]

    def _add_firmware(self, options: dict[str, str]) -> None:
        code, empty = map(Path, _FIRMWARE)
        variables = Path(options.get("variable-store", ""))
        if not code.exists():
            raise NotSimulated(f"--bootloader efi without {code}")
        if "create" in options:
            variables.write_bytes(empty.read_bytes())
        elif not variables.is_file():
            raise failed(f"stat {variables}: no such file or directory")
        for unit, path in enumerate((code, variables)):
            read_only = "on" if path == code else "off"
            self.arguments += ["-drive", f"if=pflash,format=raw,unit={unit},readonly={read_only},file={path}"]

    def add(self, device: Device) -> None:
        number = len(self.arguments)
        options = device.options
        match device.kind:
            case "virtio-blk":
                read_only = "on" if "readonly" in options else "off"
                file = (
                    f"driver=file,filename={options['path']},locking=off,read-only={read_only},node-name=disk{number}"
                )
                self.arguments += ["-blockdev", file]
                self.arguments += ["-device", f"virtio-blk-pci,{_VIRTIO},drive=disk{number}"]
            case "virtio-net":
                self._add_card(options, number)
            case "virtio-rng":
                self.arguments += ["-device", f"virtio-rng-pci,{_VIRTIO}"]
            case "virtio-balloon":
                self.arguments += ["-device", f"virtio-balloon-pci,{_VIRTIO}"]
            case "virtio-serial" if "stdio" in options and self.console is None:
                self._add_console()
            case _:
                raise NotSimulated(f"--device {device.kind} with {', '.join(options) or 'no options'}")

    def _add_card(self, options: dict[str, str], number: int) -> None:
        if not {"nat", "fd"} & set(options) or "mac" not in options:
            raise NotSimulated("a network card but nat,mac= and fd=,mac=")
        is_nat = str("nat" in options).lower()
        write("info", f"Adding virtio-net device (nat: {is_nat} macAddress: [{options['mac']}])", self._process)
        if "fd" in options:
            self.files.append(self._datagram_socket(int(options["fd"])))
            netdev = f"dgram,id=net{number},local.type=fd,local.str={self.files[-1]}"
        else:
            self.files.append(open_tap())
            netdev = f"tap,id=net{number},fd={self.files[-1]}"
        self.arguments += ["-netdev", netdev]
        self.arguments += ["-device", f"virtio-net-pci,{_VIRTIO},netdev=net{number},mac={options['mac']},romfile="]

    def _datagram_socket(self, fd: int) -> int:
        write("info", f"Using fd {fd}", self._process)
        # network.go of github.com/Code-Hex/vz.
        try:
            with socket.socket(fileno=os.dup(fd)) as given:
                is_datagram = given.type == socket.SOCK_DGRAM
        except OSError as error:
            reason = {errno.EBADF: "bad file descriptor", errno.ENOTSOCK: "socket operation on non-socket"}
            raise failed(f"getsockopt: {reason.get(error.errno or 0, error.strerror)}") from error
        if not is_datagram:
            raise failed("the fileHandle must be a datagram socket")
        return fd

    def _add_console(self) -> None:
        write("info", "Adding stdio console", self._process)
        try:
            _set_raw(0)
        except termios.error as error:
            raise failed("inappropriate ioctl for device") from error
        self.console, theirs = socket.socketpair()
        self.files.append(theirs.detach())
        self.arguments += ["-chardev", f"socket,id=console,fd={self.files[-1]}"]
        self.arguments += ["-device", f"virtio-serial-pci,{_VIRTIO}", "-device", "virtconsole,chardev=console"]


def _set_raw(terminal: int) -> None:
    """As setRawMode of pkg/vf/virtio.go: signals and the output's processing stay."""
    attributes = termios.tcgetattr(terminal)
    attributes[0] &= ~termios.ICRNL
    attributes[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)
