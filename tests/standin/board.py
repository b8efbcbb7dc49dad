"""The devices of a machine, made one after another in the order of their slots, as init_pci in pci_emul.c does."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from standin.commandline import Build, CommandLine, Device, Ended, NotSimulated
from standin.console import Uarts
from standin.devices import BlockEmulation, parse_uuid
from standin.disk import OpenDisk, open_disk
from standin.faults import Faults
from standin.process import Process
from standin.vmnet import Interface, Refused, start_interface

_VMNET_REFUSED = "virtio_net: Could not create vmnet interface, permission denied or no entitlement?\n"
_VIRTIO = "disable-modern=on,disable-legacy=off"
# One of COM1 and COM2 is at 0x3f8 and the other at 0x2f8, and both are there, connected or not.
_COMS = ("COM1", "COM2")


class Board:
    """The devices of a machine.

    Attributes:
        arguments: what makes QEMU have them.
        files: descriptors that QEMU gets.
        uarts: the serial ports among them.
    """

    def __init__(self, line: CommandLine, build: Build, folder: Path, faults: Faults, process: Process) -> None:
        self.arguments: list[str] = []
        self.files: list[int] = []
        self.uarts = Uarts(process)
        self._line = line
        self._build = build
        self._folder = folder
        self._faults = faults
        self._process = process
        self._has_lpc = False
        self._has_vmnet = False

    def add_all(self) -> None:
        """Make the devices of the command line.

        Raises:
            Ended: one cannot be made, and those behind it are not.
            SegmentationFault: for hyperkit, of a configuration that it does not expect.
        """
        for device in self._line.devices:
            self._add(device)

    def check_uuid(self) -> None:
        """Abort if the UUID is none, unless there is a vmnet interface, for which it was read before."""
        # src/smbiostbl.c reads the UUID too, and main asserts that it could.
        uuid = self._line.uuid
        if uuid is not None and parse_uuid(uuid) is None:
            self._process.say("Assertion failed: (error == 0), function main, file src/xhyve.c, line 1013.\n")
            self._process.die(signal.SIGABRT)

    def _add(self, device: Device) -> None:
        match device.emulation:
            case "hostbridge":
                pass  # QEMU has one in any case
            case "lpc":
                self._add_lpc(device)
            case "virtio-blk":
                self._add_virtio_disk(device)
            case "ahci-hd":
                self._add_ahci_disk(device, "ahci-hd")
            case "ahci-cd":
                self._add_ahci_disk(device, "ahci-cd")
            case "virtio-net":
                self._add_nic(device)
            case "virtio-rnd":
                self._put(device, f"virtio-rng-pci,{_VIRTIO}")
            case emulation:
                raise NotSimulated(f"-s {device.slot},{emulation}")

    def _put(self, device: Device, what: str) -> None:
        if device.bus:
            raise NotSimulated(f"PCI bus {device.bus}")
        functions = {one.function for one in self._line.devices if (one.bus, one.slot) == (device.bus, device.slot)}
        several = "on" if functions != {0} else "off"
        place = f"addr={device.slot:#x}.{device.function},multifunction={several}"
        self.arguments += ["-device", f"{what},{place}"]

    def _add_lpc(self, device: Device) -> None:
        if self._has_lpc:
            raise Ended(1, stderr="Only one LPC bridge is allowed.\n")
        if device.bus:
            raise Ended(1, stderr="LPC bridge can be present only on bus 0.\n")
        self._has_lpc = True
        for index, name in enumerate(_COMS):
            port = self.uarts.add(self._line.com.get(name), f"LPC device {name}")
            self.arguments += self._chardev(name, port.theirs.fileno())
            self.arguments += ["-device", f"isa-serial,index={index},chardev={name}"]

    def _chardev(self, identity: str, fd: int) -> list[str]:
        self.files.append(fd)
        return ["-chardev", f"socket,id={identity},fd={fd}"]

    def _add_virtio_disk(self, device: Device) -> None:
        disk = open_disk(device.config, self._build, "virtio-blk")
        node = self._add_block(device, disk)
        sizes = f"logical_block_size={disk.logical_size},physical_block_size={disk.physical_size}"
        self._put(device, f"virtio-blk-pci,{_VIRTIO},drive={node},serial={disk.serial},{sizes}")

    def _add_ahci_disk(self, device: Device, emulation: BlockEmulation) -> None:
        disk = open_disk(device.config, self._build, emulation)
        node = self._add_block(device, disk)
        bus = f"ahci{device.slot}.{device.function}".replace(".", "-")
        self._put(device, f"ich9-ahci,id={bus}")
        kind = "ide-hd" if emulation == "ahci-hd" else "ide-cd"
        self.arguments += ["-device", f"{kind},bus={bus}.0,drive={node},serial={disk.serial}"]

    def _add_block(self, device: Device, disk: OpenDisk) -> str:
        node = f"disk{device.slot}-{device.function}"
        # src/block_if.c sends it to itself.
        signal.signal(signal.SIGCONT, signal.SIG_IGN)
        # There is no lock on an image but hyperkit's. What a guest has flushed is in the host's page cache, which
        # outlives every process.
        block: dict[str, object] = {
            "driver": "raw",
            "read-only": disk.read_only,
            "cache": {"no-flush": True},
            "file": {
                "driver": "file",
                "filename": self._in_fdset(disk.fd),
                "locking": "off",
                "cache": {"no-flush": True},
            },
        }
        if disk.read_only:
            block = self._failing_writes(block, os.fstat(disk.fd).st_size)
        self.arguments += ["-blockdev", json.dumps(block | {"node-name": node})]
        return node

    def _failing_writes(self, block: dict[str, object], size: int) -> dict[str, object]:
        """A disk that calls itself writable, and whose writes fail, as a guest of xhyve has it."""
        # QEMU wants something writable underneath, where nothing ever gets to.
        overlay = os.memfd_create("overlay", 0)
        os.set_inheritable(overlay, True)
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", f"/proc/self/fd/{overlay}", str(size)]
        _, status = os.waitpid(os.posix_spawnp(argv[0], argv, os.environ), 0)
        if status != 0:
            raise NotSimulated("a disk that cannot be written: qemu-img failed")
        return {
            "driver": "blkdebug",
            "inject-error": [{"event": "none", "iotype": "write", "errno": 5}],
            "image": {
                "driver": "qcow2",
                "file": {"driver": "file", "filename": self._in_fdset(overlay), "locking": "off"},
                "backing": block,
            },
        }

    def _in_fdset(self, fd: int) -> str:
        self.files.append(fd)
        self.arguments += ["-add-fd", f"fd={fd},set={fd}"]
        return f"/dev/fdset/{fd}"

    def _add_nic(self, device: Device) -> None:
        if device.config is not None and self._build == "hyperkit":
            # xhyve ignores it.
            raise NotSimulated(f"a network card's options {device.config}")
        interface = self._start_vmnet()
        mac = interface.mac
        if self._line.print_mac and not self._has_vmnet:
            self._process.print(f"MAC: {mac.hex(':')}\n")
            self._process.exit(0)
        self._has_vmnet = True
        net = f"net{device.slot}-{device.function}"
        self.files.append(interface.tap)
        self.arguments += ["-netdev", f"tap,id={net},fd={interface.tap}"]
        self._put(device, f"virtio-net-pci,{_VIRTIO},netdev={net},mac={mac.hex(':')},romfile=")

    def _start_vmnet(self) -> Interface:
        uuid = os.urandom(16) if self._line.uuid is None else parse_uuid(self._line.uuid)
        if uuid is None:
            raise Ended(1)
        try:
            interface = start_interface(uuid, self._folder, self._faults)
        except Refused:
            if self._build == "head":
                raise Ended(1, stderr=_VMNET_REFUSED) from None
            raise Ended(1, stdout=_VMNET_REFUSED) from None
        if self._build == "head":
            self._drop_privileges()
        return interface

    def _drop_privileges(self) -> None:
        if os.geteuid() != 0 and os.getegid() != 0:
            return
        try:
            os.setgid(os.getgid())
            os.setuid(os.getuid())
        except OSError as error:
            self._process.perror("Dropping privileges after networking was enabled.", error.errno or 0)
            raise Ended(1) from error
