"""The devices on the stand-in's command line: slots, LPC, disks."""

from __future__ import annotations

import pytest

from standin.commandline import Build, Device, Ended
from standin.devices import BlockEmulation, Disk, disk_failure, parse_disk
from standin.typed import KEXEC, each_build, end, read

# Slots


@each_build
@pytest.mark.parametrize(
    ("where", "address"),
    [
        ("2", (0, 2, 0)),
        ("3:1", (0, 3, 1)),
        ("1:4:7", (1, 4, 7)),
        ("255:31:7", (255, 31, 7)),
        ("0:0:0", (0, 0, 0)),
        ("4junk", (0, 4, 0)),
        ("4:junk", (0, 4, 0)),
        ("4:", (0, 4, 0)),
        ("4:2junk", (0, 4, 2)),
        ("4:2:junk", (0, 4, 2)),
        ("4:2:3:9", (4, 2, 3)),
        ("4:2:3junk", (4, 2, 3)),
        ("4 :2", (0, 4, 0)),
        (" +4: 02", (0, 4, 2)),
        ("08", (0, 8, 0)),
        ("0x4", (0, 0, 0)),
        ("4.2", (0, 4, 0)),
        ("4294967298", (0, 2, 0)),
    ],
)
def test_slots(build: Build, where: str, address: tuple[int, int, int]) -> None:
    assert read("-s", f"{where},dummy", *KEXEC, build=build).devices == (Device(*address, "dummy"),)


@each_build
@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        "4:1",
        ",dummy",
        "x,dummy",
        "-1,dummy",
        "32,dummy",
        "0:8,dummy",
        "0:-1,dummy",
        "256:0:0,dummy",
        "-1:0:0,dummy",
        "1:32:0,dummy",
        "1:0:8,dummy",
        ":4,dummy",
        "9999999999999999999999,dummy",
        "2147483648,dummy",
        "\u0664,dummy",
    ],
)
def test_bad_slots(build: Build, text: str) -> None:
    assert end("-s", text, build=build) == (1, "", f'Invalid PCI slot info field "{text}"\n')


@each_build
def test_an_occupied_slot(build: Build) -> None:
    expected = (1, "", "pci slot 3:1 already occupied!\n")
    assert end("-s", "3:1,dummy", "-s", "3:1,lpc", build=build) == expected
    assert end("-s", "0:3:1,dummy", "-s", "3:1,no-such", build=build) == expected
    assert len(read("-s", "3:1,dummy", "-s", "3:0,dummy", "-s", "1:3:1,dummy", *KEXEC, build=build).devices) == 3


@each_build
@pytest.mark.parametrize("name", ["", "Virtio-blk", "virtio-blk ", "virtio", "passthru", "xhci", "virtio-console"])
def test_unknown_devices(build: Build, name: str) -> None:
    expected = (1, "", f'pci slot 5:2: unknown device "{name}"\n')
    assert end("-s", f"5:2,{name}", build=build) == expected
    assert end("-s", f"9:5:2,{name},config", build=build) == expected


@each_build
def test_configurations_are_taken_as_they_stand(build: Build) -> None:
    line = read("-s", "1,virtio-blk,a b,ro,,x=:", "-s", "2,virtio-net,", "-s", "3,virtio-blk", *KEXEC, build=build)
    assert [device.config for device in line.devices] == ["a b,ro,,x=:", "", None]


@each_build
def test_devices_are_in_the_order_of_their_addresses(build: Build) -> None:
    words = [f"-s{where},dummy" for where in ("1:0:0", "31", "2:1", "2", "10", "0")]
    devices = read(*words, *KEXEC, build=build).devices
    addresses = [(0, 0, 0), (0, 2, 0), (0, 2, 1), (0, 10, 0), (0, 31, 0), (1, 0, 0)]
    assert [(device.bus, device.slot, device.function) for device in devices] == addresses


@each_build
def test_what_is_wrong_with_devices_only_later(build: Build) -> None:
    line = read(
        "-s", "3:0:0,lpc", "-s", "1,lpc", "-s", "2,virtio-blk", "-U", "no uuid", "-c", "99", *KEXEC, build=build
    )
    assert (len(line.devices), line.uuid, line.cpus) == (3, "no uuid", 99)


# LPC


@each_build
def test_com(build: Build) -> None:
    assert read("-l", "com1", *KEXEC, build=build).com == {"COM1": None}
    assert read("-l", "com1,", *KEXEC, build=build).com == {"COM1": ""}
    line = read("-l", "Com2,/dev/ttys1,x", "-l", "COM1,stdio", *KEXEC, build=build)
    assert line.com == {"COM1": "stdio", "COM2": "/dev/ttys1,x"}
    # Again is instead, and no word is too odd yet.
    assert read("-l", "com1,stdio", "-l", "com1,what?", *KEXEC, build=build).com == {"COM1": "what?"}
    assert read("-l", "com1,stdio", "-l", "com1", *KEXEC, build=build).com == {"COM1": None}


# Disks


def disk_end(config: str | None, build: Build, emulation: BlockEmulation) -> tuple[int, str, str]:
    with pytest.raises(Ended) as raised:
        parse_disk(config, build, emulation)
    return raised.value.code, raised.value.stdout, raised.value.stderr


@each_build
@pytest.mark.parametrize(
    ("config", "disk"),
    [
        ("/a b", Disk("/a b")),
        ("/a,ro", Disk("/a", read_only=True)),
        ("file:///a", Disk("file:///a")),
    ],
)
def test_disks(build: Build, config: str, disk: Disk) -> None:
    for emulation in ("virtio-blk", "ahci-hd"):
        assert parse_disk(config, build, emulation) == disk


@each_build
def test_a_disk_without_a_file(build: Build) -> None:
    assert disk_end(None, build, "virtio-blk") == (1, "virtio-block: backing device required\n", "")
    for emulation in ("ahci-hd", "ahci-cd"):
        assert disk_end(None, build, emulation) == (1, "", "pci_ahci: backing device required\n")


def test_a_file_that_is_missing_is_told_twice_by_virtio() -> None:
    reason = "No such file or directory"
    message = f"Could not open backing file: {reason}"
    assert disk_failure(message, "virtio-blk", reason).stderr == f"{message}\n{message}\n"
    assert disk_failure(message, "ahci-hd", reason).stderr == f"{message}\n"
