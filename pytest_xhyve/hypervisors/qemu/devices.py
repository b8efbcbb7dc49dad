"""The devices of a machine under QEMU, as the command line states them."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pytest_xhyve.hypervisors.qemu.block import disk_device, node_name, port_name
from pytest_xhyve.hypervisors.qemu.machine import LOOPBACK, lan_card
from pytest_xhyve.hypervisors.qemu.monitor import MONITOR
from pytest_xhyve.model.machine import CLOSED_PORT, SSH_PORT, Disk, Machine

LAN_FD = 20
"""The descriptor of the first LAN's cable in QEMU; those of the others follow."""

LAN_SLOT = 0x1A
"""The place of the first LAN's card on the bus; up to 0x1D, as a guest numbers its cards by their places."""

_VGA_SLOT = 0x1E
# A device on the root bus cannot be taken out, one in a port can. A place of the bus has room for 8 ports; they begin
# where no device comes that QEMU places itself.
_PORT_SLOT = 0x19
_PORTS = 8


def option_value(value: str) -> str:
    """*value* as a part of an option of QEMU's that has commas between its parts (qemu(1), on ``-drive file=``)."""
    return value.replace(",", ",,")


def device_options(machine: Machine, graphics: str) -> Iterator[str]:
    """The options for the disks, drives and cards of *machine*.

    Their order stays: QEMU gives devices without an address their places in it.

    Args:
        machine: the machine.
        graphics: the name of the graphics card, if the machine has one.
    """
    yield from _root_disk(machine)
    yield from _cdroms(machine)
    yield from _cards(machine)
    yield from _lan_cards(machine)
    if machine.graphics:
        yield from _screen(graphics)
    yield from _further_disks(machine)


def _root_disk(machine: Machine) -> Iterator[str]:
    # Without an order of boot, OVMF tries the network first.
    first = "" if machine.firmware is None else ",bootindex=0"
    for disk in machine.disks[:1]:
        yield from ("-blockdev", _disk_file(0, disk))
        yield from ("-device", _disk(0, first))


def _cdroms(machine: Machine) -> Iterator[str]:
    for number, cdrom in enumerate(machine.cdroms):
        file = {"driver": "file", "filename": str(cdrom), "node-name": f"cdrom{number}", "read-only": True}
        yield from ("-device", f"ich9-ahci,id=ahci{number}")
        yield from ("-blockdev", json.dumps(file))
        yield from ("-device", f"ide-cd,bus=ahci{number}.0,drive=cdrom{number}")


def _cards(machine: Machine) -> Iterator[str]:
    for number, nic in enumerate(machine.nics):
        ports = (*nic.forward, CLOSED_PORT) if SSH_PORT in nic.forward else nic.forward
        forwards = "".join(f",hostfwd=tcp:{LOOPBACK}:0-:{port}" for port in ports)
        # The DHCP server of a restricted network names no router, so that a connection fails at once.
        limits = "" if nic.network == "nat" else ",restrict=on,ipv6=off"
        yield from ("-netdev", f"user,id=net{number}{limits}{forwards}")
        # After a restored card has announced itself, QEMU 7.2 has freed the timer for that, and crashes when it stops
        # the timer at the guest's next restart (virtio_net_reset in hw/net/virtio-net.c). A user-mode network does not
        # need the announcement.
        yield from ("-device", f"virtio-net-pci,netdev=net{number},mac={nic.mac},romfile=,guest_announce=off")


def _lan_cards(machine: Machine) -> Iterator[str]:
    # Some systems name their card after its place on the bus, which more disks must not change.
    for number, mac in enumerate(machine.lan_macs):
        yield from ("-netdev", f"socket,id=lan{number},fd={LAN_FD + number}")
        card = f"virtio-net-pci,id={lan_card(number)},netdev=lan{number},mac={mac},romfile=,guest_announce=off"
        yield from ("-device", f"{card},addr={LAN_SLOT + number:#x}")


def _screen(graphics: str) -> Iterator[str]:
    # In a place of its own, for the same reason: where no device that QEMU places itself comes.
    yield from ("-device", f"{graphics},addr={_VGA_SLOT:#x}")
    # For `pytest-xhyve screenshot`.
    yield from ("-chardev", f"socket,id=monitor,path={MONITOR},server=on,wait=off")
    yield from ("-mon", "chardev=monitor,mode=control")


def _further_disks(machine: Machine) -> Iterator[str]:
    for number, disk in enumerate(machine.disks[1:], 1):
        yield from ("-blockdev", _disk_file(number, disk))
        yield from ("-device", _port(number))
        if number not in machine.unplugged:
            yield from ("-device", _disk(number, f",bus={port_name(number)}"))


def _disk_file(number: int, disk: Disk) -> str:
    """The value of ``-blockdev`` for the file of the machine's disk *number*."""
    # The clone is removed with the guest, so QEMU does not have to wait for the host's disk. Data that the guest has
    # synced still survives a power cut of the guest: it is in the host's page cache.
    cache = {"no-flush": True}
    block = {
        "node-name": node_name(number),
        "driver": disk.format,
        "cache": cache,
        "discard": "unmap",
        "file": {
            "driver": "file",
            "filename": str(disk.path),
            "cache": cache,
            "discard": "unmap",
        },
    }
    return json.dumps(block)


def _port(number: int) -> str:
    """The value of ``-device`` for the port of the disk *number*, from 1."""
    slot, function = divmod(number - 1, _PORTS)
    place = f"{_PORT_SLOT - slot:#x}.{function:#x},multifunction=on"
    return f"pcie-root-port,id={port_name(number)},chassis={number},addr={place}"


def _disk(number: int, more: str) -> str:
    """The value of ``-device`` for the disk *number*, with *more* properties."""
    device = disk_device(number, node_name(number))
    driver = device.pop("driver")
    return driver + "".join(f",{key}={value}" for key, value in device.items()) + more
