"""The stand-in's command line against the sources of xhyve and hyperkit, without starting anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standin.commandline import Build, CommandLine, Device, Ended, Firmware, parse, parse_memory
from standin.devices import (
    Backend,
    BlockEmulation,
    Disk,
    Nic,
    SegmentationFault,
    backend_failure,
    check_backend,
    check_sector_sizes,
    disk_failure,
    parse_disk,
    parse_nic,
    parse_uuid,
)
from standin.usage import usage, version

BUILDS: list[Build] = ["v0.2.0", "head", "hyperkit"]
XHYVES: list[Build] = ["v0.2.0", "head"]
KEXEC = ["-f", "kexec,k,i,c"]
FIRMWARE = Firmware("kexec", "k", "i", "c")

each_build = pytest.mark.parametrize("build", BUILDS)


def read(*words: str, build: Build = "head") -> CommandLine:
    return parse(["/opt/bin/xhyve", *words], build)


def end(*words: str, build: Build = "head", program: str = "xhyve") -> tuple[int, str, str]:
    with pytest.raises(Ended) as raised:
        parse([f"/opt/bin/{program}", *words], build)
    return raised.value.code, raised.value.stdout, raised.value.stderr


def wrong_option(message: str, build: Build = "head", program: str = "xhyve") -> tuple[int, str, str]:
    return 1, "", f"{program}: {message}\n{usage(program, build)}"


# What getopt makes of it


@each_build
def test_defaults(build: Build) -> None:
    assert read(*KEXEC, build=build) == CommandLine(
        program="xhyve",
        firmware=FIRMWARE,
        cpus=1,
        memory=256 << 20,
        acpi=False,
        utc=False,
        print_mac=False,
        pidfile=None,
        gdb_port=0,
        uuid=None,
        devices=(),
        com={},
        bootrom=None,
    )


@each_build
def test_clustered_and_glued(build: Build) -> None:
    line = read("-Aux", "-c2", "-wm1G", "-s0:0,hostbridge", "-lcom1,stdio", "-fkexec,k,i,c", build=build)
    assert (line.acpi, line.utc, line.cpus, line.memory, line.firmware) == (True, True, 2, 1 << 30, FIRMWARE)
    assert line.devices == (Device(0, 0, 0, "hostbridge"),)
    assert line.com == {"COM1": "stdio"}


@each_build
@pytest.mark.parametrize("word", ["operand", "-", "--", ""])
def test_nothing_is_read_after_an_operand(build: Build, word: str) -> None:
    line = read(*KEXEC, word, "-A", "-m", "bad", "-?", build=build)
    assert line == read(*KEXEC, build=build)


@each_build
def test_operands_before_the_firmware_hide_it(build: Build) -> None:
    assert end("operand", *KEXEC, build=build) == (1, "", usage("xhyve", build))


@each_build
@pytest.mark.parametrize(
    ("words", "letter"),
    [
        (["-p", "0:0"], "p"),
        (["-S"], "S"),
        (["-?"], "?"),
        (["-:"], ":"),
        (["-Az"], "z"),
        (["--help"], "-"),
        (["--version"], "-"),
        (["-A-"], "-"),
        (["-A", "-é"], "é"),
    ],
)
def test_illegal_options(build: Build, words: list[str], letter: str) -> None:
    assert end(*words, *KEXEC, build=build) == wrong_option(f"illegal option -- {letter}", build)
    assert end(*KEXEC, *words, build=build) == wrong_option(f"illegal option -- {letter}", build)


@each_build
def test_every_other_letter_is_illegal(build: Build) -> None:
    known = "behvuwxACHPWYfgcsmlU" if build == "v0.2.0" else "behvuwxMACHPWYfFgcsmlU"
    for letter in map(chr, range(32, 127)):
        if letter not in known and letter != "-":
            assert end(f"-{letter}1", build=build) == wrong_option(f"illegal option -- {letter}", build)


@pytest.mark.parametrize("letter", ["F", "M"])
def test_options_that_came_after_the_release(letter: str) -> None:
    assert end(f"-{letter}", "x", *KEXEC, build="v0.2.0") == wrong_option(f"illegal option -- {letter}", "v0.2.0")


@pytest.mark.parametrize("build", ["head", "hyperkit"])
def test_pidfile_and_mac(build: Build) -> None:
    line = read("-F", "a,b c", "-M", *KEXEC, build=build)
    assert (line.pidfile, line.print_mac) == ("a,b c", True)


@pytest.mark.parametrize(
    ("letter", "build"),
    [(letter, build) for build in BUILDS for letter in "YfFgcsmlU" if (letter, build) != ("F", "v0.2.0")],
)
def test_a_missing_argument(letter: str, build: Build) -> None:
    expected = wrong_option(f"option requires an argument -- {letter}", build)
    assert end(*KEXEC, f"-{letter}", build=build) == expected
    assert end(*KEXEC, f"-A{letter}", build=build) == expected


@each_build
def test_an_empty_argument_is_one(build: Build) -> None:
    assert read("-U", "", *KEXEC, build=build).uuid == ""


@each_build
@pytest.mark.parametrize("word", ["-A", "--", "-"])
def test_an_argument_may_look_like_an_option(build: Build, word: str) -> None:
    line = read("-U", word, *KEXEC, build=build)
    assert (line.uuid, line.acpi) == (word, False)


@each_build
def test_no_mptable_takes_an_argument(build: Build) -> None:
    assert read("-Y", "-A", *KEXEC, build=build).acpi is False
    assert read("-YA", *KEXEC, build=build).acpi is False
    # It swallows the -f, and what is left is an operand.
    assert end("-Y", *KEXEC, build=build) == (1, "", usage("xhyve", build))


@each_build
def test_what_is_accepted_and_does_nothing(build: Build) -> None:
    assert read("-CbeHPwWx", "-C", "-b", *KEXEC, build=build) == read(*KEXEC, build=build)


@each_build
def test_the_last_one_wins(build: Build) -> None:
    twice = ["-c1", "-c2", "-g1", "-g2", "-m1", "-m2", "-Uone", "-Utwo", "-fkexec,a,b,c", *KEXEC]
    line = read(*twice, build=build)
    assert (line.cpus, line.gdb_port, line.memory, line.uuid, line.firmware) == (2, 2, 2 << 20, "two", FIRMWARE)
    if build != "v0.2.0":
        assert read("-Fone", "-Ftwo", *KEXEC, build=build).pidfile == "two"


@each_build
@pytest.mark.parametrize("words", [[], ["-A"], ["-l", "com1,stdio", "-s", "31,lpc"]])
def test_no_firmware_is_told_by_the_usage_alone(build: Build, words: list[str]) -> None:
    assert end(*words, build=build) == (1, "", usage("xhyve", build))


@each_build
def test_the_first_mistake_wins(build: Build) -> None:
    assert end("-mbad", "-lbad", "-sbad", "-fbad", "-z", build=build)[2] == "xhyve: invalid memsize 'bad'\n"
    assert end("-lbad", "-mbad", build=build)[2] == "xhyve: invalid lpc device configuration 'bad'\n"
    assert end("-sbad", "-mbad", build=build)[2] == 'Invalid PCI slot info field "bad"\n'
    assert end("-fbad", "-mbad", build=build)[2].startswith("Invalid firm")
    assert end("-zmbad", build=build) == wrong_option("illegal option -- z", build)
    # -h and -v end it where they stand.
    assert end("-h", "-mbad", build=build)[0] == 0
    assert end("-Avz", build=build)[0] == 0
    assert end("-mbad", "-h", build=build)[0] == 64
    assert end("-mbad", "-v", build=build)[0] == 64


# Usage and version


@each_build
def test_help(build: Build) -> None:
    assert end("-h", build=build) == (0, "", usage("xhyve", build))


@pytest.mark.parametrize(
    ("build", "banner"),
    [
        ("v0.2.0", "Usage: xhyve [-behuwxACHPWY] [-c vcpus] [-g <gdb port>] [-l <lpc>]"),
        ("head", "Usage: xhyve [-behuwxMACHPWY] [-c vcpus] [-F <pidfile>] [-g <gdb port>] [-l <lpc>]"),
        ("hyperkit", "Usage: xhyve [-behuwxMACHPWY] [-c vcpus] [-F <pidfile>] [-g <gdb port>] [-l <lpc>]"),
    ],
)
def test_banner(build: Build, banner: str) -> None:
    first, second, *_ = usage("xhyve", build).splitlines()
    assert first == banner
    assert second == "             [-m mem] [-p vcpu:hostcpu] [-s <pci>] [-U uuid] -f <fw>"


@pytest.mark.parametrize(
    ("build", "letters"),
    [
        ("v0.2.0", "AcCefghHlmpPsuUvwWxY"),
        ("head", "AcCefFghHlmMpPsuUvwWxY"),
        ("hyperkit", "AcCefFghHlmMPsuUvwWxY"),
    ],
)
def test_usage_lists(build: Build, letters: str) -> None:
    listed = usage("xhyve", build).splitlines()[2:]
    assert [line[:11] for line in listed] == [f"       -{letter}: " for letter in letters]


@pytest.mark.parametrize(
    ("build", "homepage"),
    [
        ("v0.2.0", "https://github.com/mist64/xhyve"),
        ("head", "http://www.xhyve.xyz"),
        ("hyperkit", "https://github.com/docker/hyperkit"),
    ],
)
def test_version(build: Build, homepage: str) -> None:
    code, out, err = end("-v", build=build, program="hyper")
    assert (code, out, err) == (0, "", version("hyper", build))
    lines = err.splitlines()
    assert lines[0].startswith("hyper: v0.20210107" if build == "hyperkit" else "hyper: v0.2.0")
    assert lines[1] == ""
    assert lines[-3:] == [f"Homepage: {homepage}", "License: BSD", ""]
    assert ("xhyve is a port of FreeBSD's bhyve hypervisor to OS X that" in lines) == (build != "hyperkit")


@pytest.mark.parametrize(
    ("argv", "program"),
    [
        (["xhyve"], "xhyve"),
        (["./a/xhyve-2"], "xhyve-2"),
        (["a/xhyve//"], "xhyve"),
        (["//"], "/"),
        ([""], "."),
        ([], "."),
    ],
)
def test_program(argv: list[str], program: str) -> None:
    with pytest.raises(Ended) as raised:
        parse(argv, "head")
    assert raised.value.stderr == usage(program, "head")
    if argv:
        assert parse([*argv, *KEXEC], "head").program == program


def test_messages_begin_with_the_program() -> None:
    assert end("-z", program="vm") == wrong_option("illegal option -- z", program="vm")
    assert end("-m", "z", program="vm")[2] == "vm: invalid memsize 'z'\n"
    assert end("-l", "z", program="vm")[2] == "vm: invalid lpc device configuration 'z'\n"


# Numbers and sizes


@each_build
@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4", 4),
        ("2x", 2),
        (" +16,sockets=2", 16),
        ("abc", 0),
        ("", 0),
        ("-3", -3),
        ("010", 10),
        ("0x10", 0),
        ("17", 17),
        ("4294967297", 1),
        ("2147483648", -(2**31)),
        ("9" * 30, -1),
        ("-" + "9" * 30, 0),
        ("9" * 9000, -1),
    ],
)
def test_cpus_and_port_are_what_atoi_reads(build: Build, text: str, number: int) -> None:
    line = read("-c", text, "-g", text, *KEXEC, build=build)
    assert (line.cpus, line.gdb_port) == (number, number)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256", 256 << 20),
        ("1", 1 << 20),
        ("0", 0),
        ("1048575", 1048575 << 20),
        ("1048576", 1048576),
        ("268435456", 268435456),
        ("0x200", 512 << 20),
        ("0X200", 512 << 20),
        ("0512", 330 << 20),
        ("0x100000", 1 << 20),
        (" 512", 512 << 20),
        ("+512", 512 << 20),
        ("1b", 1),
        ("512B", 512),
        ("512k", 524288),
        ("512K", 524288),
        ("1m", 1 << 20),
        ("1M", 1 << 20),
        ("010M", 8 << 20),
        ("0x10M", 16 << 20),
        ("1g", 1 << 30),
        ("2G", 2 << 30),
        ("1t", 1 << 40),
        ("1P", 1 << 50),
        ("1e", 1 << 60),
        ("0x1e", 30 << 20),
        ("3GB", 3 << 30),
        ("1Gfoo", 1 << 30),
        ("1g ", 1 << 30),
        ("15E", 15 << 60),
        # A number alone is not seen to be too big, nor that it was negative.
        ("18446744073709551616", 2**64 - 1),
        ("9" * 9000, 2**64 - 1),
        ("-1", 2**64 - 1),
        ("-1b", 2**64 - 1),
    ],
)
def test_memory(text: str, size: int) -> None:
    assert parse_memory(text) == size
    for build in BUILDS:
        assert read("-m", text, *KEXEC, build=build).memory == size


@each_build
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "G",
        "foo",
        "+",
        "-",
        "1.5G",
        "1,5G",
        "1 G",
        "1z",
        "1i",
        "08",
        "0x",
        "0xg",
        "1\u212a",
        "\u0661G",
        "16E",
        "-1k",
        "17179869184G",
        "18446744073709551616b",
        "9" * 9000 + "k",
    ],
)
def test_no_memory(build: Build, text: str) -> None:
    assert end("-m", text, build=build) == (64, "", f"xhyve: invalid memsize '{text}'\n")


# Firmware


@each_build
@pytest.mark.parametrize(
    ("text", "firmware"),
    [
        ("kexec,/k,/i,console=ttyS0", Firmware("kexec", "/k", "/i", "console=ttyS0")),
        ("kexec,k,,", Firmware("kexec", "k")),
        ("kexec,k,,c", Firmware("kexec", "k", "", "c")),
        ("kexec,k,i,a=1,2 b=,", Firmware("kexec", "k", "i", "a=1,2 b=,")),
        ('kexec,"k",\'i\',"c\\,d"', Firmware("kexec", '"k"', "'i'", '"c\\,d"')),
        ("kexecfoo,k,i,c", FIRMWARE),
        ("fbsd,u,v,env", Firmware("fbsd", "u", "v", "env")),
        ("fbsdfoo,u,v,", Firmware("fbsd", "u", "v")),
        # Nothing looks for the files.
        ("kexec,/nowhere/vmlinuz,/nowhere/initrd,", Firmware("kexec", "/nowhere/vmlinuz", "/nowhere/initrd")),
    ],
)
def test_firmware(build: Build, text: str, firmware: Firmware) -> None:
    assert read("-f", text, build=build).firmware == firmware


@pytest.mark.parametrize("build", XHYVES)
def test_xhyve_leaves_empty_parts_to_the_loader(build: Build) -> None:
    assert read("-f", "kexec,,,", build=build).firmware == Firmware("kexec", "")
    assert read("-f", "fbsd,,,", build=build).firmware == Firmware("fbsd", "")


@pytest.mark.parametrize("build", XHYVES)
@pytest.mark.parametrize(
    "text",
    ["", "kexec", "kexec,k", "kexec,k,i", "fbsd,u,v", "Kexec,k,i,c", " kexec,k,i,c", "bootrom,r,,", "grub,a,b,c"],
)
def test_bad_firmware_of_xhyve(build: Build, text: str) -> None:
    code, out, err = end("-f", text, build=build)
    assert (code, out) == (1, "")
    first, *syntax = err.splitlines()
    assert first == {"v0.2.0": "Invalid firmare argument", "head": "Invalid firmware argument"}[build]
    assert [line[:10] for line in syntax] == ["    -f kex", "    -f fbs"]


@pytest.mark.parametrize(
    ("text", "firmware"),
    [
        ("kexec,k", Firmware("kexec", "k")),
        ("kexec,k,i", Firmware("kexec", "k", "i")),
        ("fbsd,u,v", Firmware("fbsd", "u", "v")),
        ("bootrom,rom", Firmware("bootrom", "rom")),
        ("bootrom,rom,more,of,it", Firmware("bootrom", "rom")),
        ("multiboot,k", Firmware("multiboot", "k")),
        ("multiboot,k,m;c:n,cmd,line", Firmware("multiboot", "k", "m;c:n", "cmd,line")),
        ("multibootfoo,k", Firmware("multiboot", "k")),
    ],
)
def test_firmware_of_hyperkit(text: str, firmware: Firmware) -> None:
    assert read("-f", text, build="hyperkit").firmware == firmware


@pytest.mark.parametrize(
    "text", ["", "kexec", "kexec,", "kexec,,i,c", "fbsd,u", "fbsd,,v", "bootrom", "bootrom,", "multiboot,", "grub,k"]
)
def test_bad_firmware_of_hyperkit(text: str) -> None:
    code, out, err = end("-f", text, build="hyperkit")
    assert (code, out) == (1, "")
    first, *syntax = err.splitlines()
    assert first == "Invalid firmware argument"
    assert [line[:10] for line in syntax] == ["    -f kex", "    -f fbs", "    -f boo", "    -f mul"]


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


EVERYWHERE = {
    "hostbridge",
    "amd_hostbridge",
    "lpc",
    "uart",
    "virtio-blk",
    "ahci-hd",
    "ahci-cd",
    "virtio-net",
    "virtio-tap",
    "virtio-rnd",
    "dummy",
}
OF_HYPERKIT = {"virtio-9p", "virtio-sock", "virtio-vpnkit"}


@pytest.mark.parametrize(
    ("build", "names", "others"),
    [
        ("v0.2.0", EVERYWHERE, {"e1000", "fbuf"} | OF_HYPERKIT),
        ("head", EVERYWHERE | {"e1000", "fbuf"}, OF_HYPERKIT),
        ("hyperkit", EVERYWHERE | OF_HYPERKIT, {"e1000", "fbuf"}),
    ],
)
def test_known_devices(build: Build, names: set[str], others: set[str]) -> None:
    for name in names:
        assert read("-s", f"1,{name}", *KEXEC, build=build).devices[0].emulation == name
    for name in others:
        assert end("-s", f"1,{name}", build=build) == (1, "", f'pci slot 1:0: unknown device "{name}"\n')


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


@each_build
@pytest.mark.parametrize("text", ["", ",stdio", "com3,stdio", "com,stdio", "com1 ,stdio", "stdio", "lpt1"])
def test_bad_lpc_devices(build: Build, text: str) -> None:
    assert end("-l", text, build=build) == (64, "", f"xhyve: invalid lpc device configuration '{text}'\n")


def test_bootrom() -> None:
    line = read("-l", "bootrom,/f,w.fd")
    assert (line.firmware, line.bootrom) == (None, "/f,w.fd")
    assert read("-l", "BootROM,x").bootrom == "x"
    assert read("-l", "bootrom,").bootrom == ""
    both = read("-l", "bootrom,x", *KEXEC)
    assert (both.firmware, both.bootrom) == (FIRMWARE, "x")
    # Without a path it is taken, and is none.
    assert end("-l", "bootrom") == (1, "", usage("xhyve", "head"))
    assert end("-l", "bootrom,x", "-l", "bootrom") == (1, "", usage("xhyve", "head"))


@pytest.mark.parametrize("build", ["v0.2.0", "hyperkit"])
def test_no_bootrom_among_the_lpc_devices(build: Build) -> None:
    expected = (64, "", "xhyve: invalid lpc device configuration 'bootrom,x'\n")
    assert end("-l", "bootrom,x", *KEXEC, build=build) == expected


# What people type


def test_script_of_the_release() -> None:
    line = read(
        *("-A", "-m", "1G", "-s", "0:0,hostbridge", "-s", "31,lpc", "-l", "com1,stdio", "-s", "2:0,virtio-net"),
        *("-s", "3,ahci-cd,/some/file.iso", "-s", "4,virtio-blk,/some/file.img"),
        *("-U", "deadbeef-dead-dead-dead-deaddeafbeef"),
        *("-f", "kexec,test/vmlinuz,test/initrd.gz,earlyprintk=serial console=ttyS0"),
        build="v0.2.0",
    )
    assert line == CommandLine(
        program="xhyve",
        firmware=Firmware("kexec", "test/vmlinuz", "test/initrd.gz", "earlyprintk=serial console=ttyS0"),
        memory=1 << 30,
        acpi=True,
        uuid="deadbeef-dead-dead-dead-deaddeafbeef",
        devices=(
            Device(0, 0, 0, "hostbridge"),
            Device(0, 2, 0, "virtio-net"),
            Device(0, 3, 0, "ahci-cd", "/some/file.iso"),
            Device(0, 4, 0, "virtio-blk", "/some/file.img"),
            Device(0, 31, 0, "lpc"),
        ),
        com={"COM1": "stdio"},
    )


def test_script_for_windows() -> None:
    line = read(
        *("-w", "-m", "4G", "-c", "2", "-s", "0:0,hostbridge", "-s", "3,ahci-cd,win.iso", "-s", "4,ahci-hd,win.img"),
        *("-s", "5,e1000", "-s", "29,fbuf,tcp=127.0.0.1:29000,w=1024,h=768,wait", "-s", "31,lpc"),
        *("-l", "com1,stdio", "-l", "bootrom,BHYVE_UEFI.fd"),
    )
    assert (line.firmware, line.bootrom, line.memory, line.cpus) == (None, "BHYVE_UEFI.fd", 4 << 30, 2)
    assert line.devices[3:5] == (
        Device(0, 5, 0, "e1000"),
        Device(0, 29, 0, "fbuf", "tcp=127.0.0.1:29000,w=1024,h=768,wait"),
    )
    assert line.com == {"COM1": "stdio"}


def test_script_for_freebsd() -> None:
    line = read(
        *("-A", "-m", "2G", "-c", "2", "-s", "0:0,hostbridge", "-s", "2:0,virtio-net", "-s", "3:0,ahci-cd,bsd.iso"),
        *("-s", "4:0,virtio-blk,bsd.img", "-s", "31,lpc", "-l", "com1,stdio", "-f", "fbsd,test/userboot.so,bsd.iso,"),
    )
    assert line.firmware == Firmware("fbsd", "test/userboot.so", "bsd.iso")
    assert [device.slot for device in line.devices] == [0, 2, 3, 4, 31]


DOCKER_MACHINE = [
    *("-A", "-U", "e7a1c5d2-0a3f-11e5-9c1e-a45e60d5b1f3", "-c", "2", "-m", "1024M", "-l", "com1,autopty"),
    *("-s", "0:0,hostbridge", "-s", "31,lpc", "-s", "2:0,virtio-net", "-s", "3:0,ahci-cd,/m/boot2docker.iso"),
    *("-s", "4:0,virtio-blk,/m/default.rawdisk"),
    *("-f", "kexec,/m/vmlinuz64,/m/initrd.img,loglevel=3 user=docker console=ttyS0 norestore", "-F", "/m/default.pid"),
]


def test_docker_machine() -> None:
    for build in BUILDS[1:]:
        line = parse(["/usr/local/bin/docker-machine-driver-xhyve", *DOCKER_MACHINE], build)
        assert line == CommandLine(
            program="docker-machine-driver-xhyve",
            firmware=Firmware(
                "kexec", "/m/vmlinuz64", "/m/initrd.img", "loglevel=3 user=docker console=ttyS0 norestore"
            ),
            cpus=2,
            memory=1 << 30,
            acpi=True,
            pidfile="/m/default.pid",
            uuid="e7a1c5d2-0a3f-11e5-9c1e-a45e60d5b1f3",
            devices=(
                Device(0, 0, 0, "hostbridge"),
                Device(0, 2, 0, "virtio-net"),
                Device(0, 3, 0, "ahci-cd", "/m/boot2docker.iso"),
                Device(0, 4, 0, "virtio-blk", "/m/default.rawdisk"),
                Device(0, 31, 0, "lpc"),
            ),
            com={"COM1": "autopty"},
        )
        assert read(*DOCKER_MACHINE, "-M", build=build).print_mac is True


def test_docker_machine_finds_the_release_too_old() -> None:
    assert end(*DOCKER_MACHINE, build="v0.2.0") == wrong_option("illegal option -- F", "v0.2.0")


def test_docker_machine_shares_a_folder() -> None:
    share = ["-s", "7,virtio-9p,host-i=/Users"]
    line = read(*DOCKER_MACHINE, *share, build="hyperkit")
    assert line.devices[4] == Device(0, 7, 0, "virtio-9p", "host-i=/Users")
    assert end(*DOCKER_MACHINE, *share) == (1, "", 'pci slot 7:0: unknown device "virtio-9p"\n')


def test_minikube() -> None:
    line = read(
        *("-A", "-u", "-F", "/s/hyperkit.pid", "-c", "2", "-m", "2048M", "-s", "0:0,hostbridge", "-s", "31,lpc"),
        *("-s", "1:0,virtio-net", "-U", "aaf1b8a1-0000-11e9-8b2b-f01898f00dba"),
        *("-s", "2:0,virtio-blk,/s/minikube.rawdisk", "-s", "3,ahci-cd,/s/boot2docker.iso", "-s", "4,virtio-rnd"),
        *("-l", "com1,autopty=/s/tty,log=/s/console-ring"),
        *("-f", "kexec,/s/bzimage,/s/initrd,earlyprintk=serial loglevel=3 console=ttyS0 base"),
        build="hyperkit",
    )
    assert (line.acpi, line.utc, line.pidfile, line.memory) == (True, True, "/s/hyperkit.pid", 2 << 30)
    assert [device.slot for device in line.devices] == [0, 1, 2, 3, 4, 31]
    assert line.com == {"COM1": "autopty=/s/tty,log=/s/console-ring"}
    assert check_backend(line.com["COM1"], "hyperkit") == (
        Backend("autopty", "/s/tty"),
        Backend("log", "/s/console-ring"),
    )
    assert line.firmware == Firmware(
        "kexec", "/s/bzimage", "/s/initrd", "earlyprintk=serial loglevel=3 console=ttyS0 base"
    )


def test_corectl() -> None:
    line = read(
        *("-s", "0:0,hostbridge", "-l", "com1,autopty=/r/tty,log=/r/log", "-s", "5,virtio-rnd", "-s", "31,lpc"),
        *("-U", "9F1A5A50-0A5A-4C2C-8C1C-3C1C5A7E2F9B", "-m", "1024M", "-c", "1", "-A", "-u", "-s", "2:0,virtio-net"),
        *("-s", "3:0,ahci-cd,/r/config.iso", "-s", "4:0,virtio-blk,/r/a.img", "-s", "4:1,virtio-blk,/r/b.img"),
        *("-f", "kexec,/r/vmlinuz,/r/initrd,earlyprintk=serial console=ttyS0 coreos.autologin uuid=1"),
        build="hyperkit",
    )
    assert line.devices[3:5] == (
        Device(0, 4, 0, "virtio-blk", "/r/a.img"),
        Device(0, 4, 1, "virtio-blk", "/r/b.img"),
    )


def test_dlite() -> None:
    line = read(
        *("-A", "-u", "-U", "9f1a5a50-0a5a-4c2c-8c1c-3c1c5a7e2f9b", "-c", "2", "-m", "2G"),
        *("-l", "com1,autopty=/d/tty,log=/d/log", "-s", "0:0,hostbridge", "-s", "5,virtio-rnd", "-s", "31,lpc"),
        *("-s", "2:0,virtio-net", "-s", "4:0,virtio-blk,file:///d/disk.qcow,format=qcow"),
        *("-f", "kexec,/d/bzImage,/d/rootfs,earlyprintk=serial console=ttyS0 no_timer_check config=a,b"),
        build="hyperkit",
    )
    assert line.memory == 2 << 30
    assert line.devices[2] == Device(0, 4, 0, "virtio-blk", "file:///d/disk.qcow,format=qcow")
    assert line.firmware is not None
    assert line.firmware.cmdline.endswith("config=a,b")


def test_vagrant() -> None:
    line = read(
        *("-A", "-m", "1G", "-c", "1", "-s", "0,hostbridge", "-s", "31,lpc", "-s", "1:0,virtio-net"),
        *("-s", "1:1,virtio-blk,/v/block0.img", "-l", "com1,stdio", "-U", "e083cf15-cbfc-4f31-a92b-0de72c86e857"),
        *("-f", 'kexec,/v/vmlinuz,/v/initrd.gz,"console=ttyS0"'),
        build="v0.2.0",
    )
    assert line.devices[1:3] == (Device(0, 1, 0, "virtio-net"), Device(0, 1, 1, "virtio-blk", "/v/block0.img"))
    assert line.firmware == Firmware("kexec", "/v/vmlinuz", "/v/initrd.gz", '"console=ttyS0"')


def test_advice_of_the_man_page_that_fails() -> None:
    assert end("-A", "-p", "0:1", *KEXEC) == wrong_option("illegal option -- p")
    # It eats the -m, and the rest are operands.
    assert end("-Y", "-m", "1G", "-s", "0,hostbridge", *KEXEC) == (1, "", usage("xhyve", "head"))


# Disks


BLOCK: list[BlockEmulation] = ["virtio-blk", "ahci-hd", "ahci-cd"]
AGAIN = "Could not open backing file: Undefined error: 0\n"


def disk_end(config: str | None, build: Build, emulation: BlockEmulation) -> tuple[int, str, str]:
    with pytest.raises(Ended) as raised:
        check_sector_sizes(parse_disk(config, build, emulation), emulation)
    return raised.value.code, raised.value.stdout, raised.value.stderr


@each_build
@pytest.mark.parametrize(
    ("config", "disk"),
    [
        ("/a b", Disk("/a b")),
        ("", Disk("")),
        ("ro", Disk("ro")),
        ("/a,ro", Disk("/a", read_only=True)),
        ("/a,sync", Disk("/a", sync=True)),
        ("/a,direct,ro", Disk("/a", read_only=True, sync=True)),
        ("/a,sectorsize=4096", Disk("/a", sector_sizes=(4096, 4096))),
        ("/a,sectorsize=512/4096", Disk("/a", sector_sizes=(512, 4096))),
        ("/a,sectorsize=512/4096junk", Disk("/a", sector_sizes=(512, 4096))),
        ("/a,sectorsize=512/junk", Disk("/a", sector_sizes=(512, 512))),
        ("/a,sectorsize=512,sectorsize=1024", Disk("/a", sector_sizes=(1024, 1024))),
        ("/a,sectorsize=512/4096/8192", Disk("/a", sector_sizes=(512, 4096))),
        ("/a,sectorsize=0", Disk("/a")),
        ("/a,sectorsize=0/512", Disk("/a")),
        ("file:///a", Disk("file:///a")),
    ],
)
def test_disks(build: Build, config: str, disk: Disk) -> None:
    for emulation in ("virtio-blk", "ahci-hd"):
        assert parse_disk(config, build, emulation) == disk
        check_sector_sizes(disk, emulation)


def test_cds_of_hyperkit_are_never_written() -> None:
    assert [parse_disk("/a", build, "ahci-cd").read_only for build in BUILDS] == [False, False, True]


@each_build
def test_a_disk_without_a_file(build: Build) -> None:
    assert disk_end(None, build, "virtio-blk") == (1, "virtio-block: backing device required\n", "")
    for emulation in ("ahci-hd", "ahci-cd"):
        assert disk_end(None, build, emulation) == (1, "", "pci_ahci: backing device required\n")


@each_build
@pytest.mark.parametrize("emulation", BLOCK)
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("/a,rw", 'Invalid device option "rw"'),
        ("/a,", 'Invalid device option ""'),
        ("/a,RO", 'Invalid device option "RO"'),
        ("/a,ro,b,c", 'Invalid device option "b"'),
        ("/a,sectorsize=", 'Invalid device option "sectorsize="'),
        ("/a,sectorsize=x", 'Invalid device option "sectorsize=x"'),
        ("/a,nocache,rw", 'Invalid device option "rw"'),
        # As those are without OCaml.
        ("file:///a,format=qcow", 'Invalid device option "format=qcow"'),
        ("/a,nocache", "xhyve: nocache support unimplemented: Undefined error: 0"),
        ("/a,sectorsize=513", "Invalid sector size 513/513"),
        ("/a,sectorsize=256", "Invalid sector size 256/256"),
        ("/a,sectorsize=4096/512", "Invalid sector size 4096/512"),
        ("/a,sectorsize=512/1000", "Invalid sector size 512/1000"),
        ("/a,sectorsize=-512", "Invalid sector size -512/-512"),
    ],
)
def test_bad_disks(build: Build, emulation: BlockEmulation, config: str, message: str) -> None:
    again = AGAIN if emulation == "virtio-blk" else ""
    assert disk_end(config, build, emulation) == (1, "", f"{message}\n{again}")


def test_sector_sizes_wait_until_the_file_was_opened() -> None:
    assert parse_disk("/a,sectorsize=513", "head") == Disk("/a", sector_sizes=(513, 513))


def test_a_file_that_is_missing_is_told_twice_by_virtio() -> None:
    reason = "No such file or directory"
    message = f"Could not open backing file: {reason}"
    assert disk_failure(message, "virtio-blk", reason).stderr == f"{message}\n{message}\n"
    assert disk_failure(message, "ahci-hd", reason).stderr == f"{message}\n"


# Network


@pytest.mark.parametrize("config", [None, "", "en0", "vmnet0", "tap0,mac=00:be:fa:76:45:00", "x,mac=bad"])
def test_xhyve_ignores_what_a_nic_is_given(config: str | None) -> None:
    for build in XHYVES:
        assert parse_nic(config, build) == Nic()


@pytest.mark.parametrize(
    ("config", "mac"),
    [
        (None, None),
        ("tap0,mac=00:be:fa:76:45:00", "00befa764500"),
        (",mac=2:0:a:B:c:F", "02000a0b0c0f"),
        ("x,mac=02:00:00:00:00:01,more", "020000000001"),
        ("x,mac=102:0:0:0:0:1ff", "0200000000ff"),
        ("x,mac=2:0:0:0:0:1:9", "020000000001"),
        ("x,mac= 0x2:0:0:0:0:1", "020000000001"),
        ("x,mac", None),
        ("x,", None),
        ("x,MAC=02:00:00:00:00:01", None),
        ("x,y,mac=02:00:00:00:00:01", None),
    ],
)
def test_nics_of_hyperkit(config: str | None, mac: str | None) -> None:
    assert parse_nic(config, "hyperkit") == Nic(None if mac is None else bytes.fromhex(mac))


@pytest.mark.parametrize("config", ["en0", "mac=02:00:00:00:00:01", "", "tap0"])
def test_hyperkit_crashes_on_one_word(config: str) -> None:
    with pytest.raises(SegmentationFault):
        parse_nic(config, "hyperkit")


@pytest.mark.parametrize(
    "text", ["", "02:00", "02-00-00-00-00-01", "01:00:00:00:00:01", "00:00:00:00:00:00", "g2:00:00:00:00:01"]
)
def test_addresses_that_no_card_of_hyperkit_can_have(text: str) -> None:
    with pytest.raises(Ended) as raised:
        parse_nic(f"x,mac={text}", "hyperkit")
    assert (raised.value.code, raised.value.stdout) == (1, "")
    assert raised.value.stderr == f"Invalid MAC address: {text}\n"


# Serial ports


def backend_end(backend: str, build: Build, *, stdio_taken: bool = False) -> tuple[int, str, str]:
    with pytest.raises(Ended) as raised:
        check_backend(backend, build, "LPC device COM2", stdio_taken=stdio_taken)
    return raised.value.code, raised.value.stdout, raised.value.stderr


@each_build
def test_backends_of_all(build: Build) -> None:
    assert check_backend(None, build) == ()
    assert check_backend("stdio", build) == (Backend("stdio"),)
    assert check_backend("/dev/tty", build) == (Backend("tty", "/dev/tty"),)


@pytest.mark.parametrize(
    ("backend", "found"),
    [
        ("null", [Backend("null")]),
        ("asl", [Backend("asl")]),
        ("autopty=/a", [Backend("autopty", "/a")]),
        ("autopty=", [Backend("autopty", "")]),
        ("stdio,log=/l", [Backend("stdio"), Backend("log", "/l")]),
        ("log=/l,asl", [Backend("log", "/l"), Backend("asl")]),
        ("/dev/tty,null", [Backend("tty", "/dev/tty"), Backend("null")]),
    ],
)
def test_backends_of_hyperkit_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, found: list[Backend]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_backend(backend, "hyperkit") == tuple(found)
    for build in XHYVES:
        assert backend_end(backend, build) == (
            1,
            "",
            f"Unable to initialize backend '{backend}' for LPC device COM2\n",
        )


def test_autopty_came_after_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for build in BUILDS[1:]:
        assert check_backend("autopty", build) == (Backend("autopty"),)
    expected = (1, "", "Unable to initialize backend 'autopty' for LPC device COM2\n")
    assert backend_end("autopty", "v0.2.0") == expected


@each_build
@pytest.mark.parametrize("backend", ["", "sock", "STDIO", "autopty2", "/nowhere/tty", "file", "f" * 9000, "tcp=:1"])
def test_no_backends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Build, backend: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    expected = (1, "", f"Unable to initialize backend '{backend}' for LPC device COM2\n")
    assert backend_end(backend, build) == expected


@each_build
def test_stdio_serves_one_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Build) -> None:
    monkeypatch.chdir(tmp_path)
    expected = (1, "", "Unable to initialize backend 'stdio' for LPC device COM2\n")
    assert backend_end("stdio", build, stdio_taken=True) == expected


def test_lists_of_hyperkit_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for backend, shown in (("null,bad", "null"), ("null,", "null"), ("stdio,stdio", "stdio"), ("log=/l", "log=/l")):
        expected = (1, "", f"Unable to initialize backend '{shown}' for LPC device COM2\n")
        assert backend_end(backend, "hyperkit") == expected


def test_what_is_meant_where_nothing_is_said() -> None:
    with pytest.raises(Ended) as raised:
        parse_disk(None, "head")
    assert raised.value.stdout.startswith("virtio-block")
    with pytest.raises(Ended) as raised:
        check_sector_sizes(Disk("/a", sector_sizes=(1, 1)))
    assert raised.value.stderr.endswith(AGAIN)
    with pytest.raises(Ended) as raised:
        check_backend("", "head")
    assert raised.value.stderr == backend_failure("", "head").stderr
    assert raised.value.stderr == "Unable to initialize backend '' for LPC device COM1\n"


def test_a_device_that_is_no_tty_is_for_the_caller_to_see() -> None:
    assert check_backend("/dev/null", "head") == (Backend("tty", "/dev/null"),)
    failure = backend_failure("/dev/null", "head", "pci uart at 4:0")
    assert (failure.code, failure.stdout) == (1, "")
    assert failure.stderr == "Unable to initialize backend '/dev/null' for pci uart at 4:0\n"


# UUIDs


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "00000000000000000000000000000000"),
        ("00112233-4455-6677-8899-aabbccddeeff", "33221100554477668899aabbccddeeff"),
        ("00112233-4455-6677-8899-AABBCCDDEEFF", "33221100554477668899aabbccddeeff"),
        ("deadbeef-dead-dead-dead-deaddeafbeef", "efbeaddeaddeaddedeaddeaddeafbeef"),
        ("00000000-0000-0000-0000-000000000000", "00000000000000000000000000000000"),
        # Variants 0 and 2 are as good as 1.
        ("00000000-0000-0000-7f00-000000000000", "00000000000000007f00000000000000"),
        ("00000000-0000-0000-df00-000000000000", "0000000000000000df00000000000000"),
        # sscanf takes less than it was offered, blanks, signs and 0x.
        ("       1-2-3-8001-020304050607 junk!", "01000000020003008001020304050607"),
        ("0x112233-4455-6677-8899-aabbccddeeff", "33221100554477668899aabbccddeeff"),
        ("00112233-455-677-8899-aabbccddeeffab", "33221100550477068899aabbccddeeff"),
        ("      -1-+4-0x6-8899-aabbccddeeff !!", "ffffffff040006008899aabbccddeeff"),
    ],
)
def test_uuids(text: str, found: str) -> None:
    assert parse_uuid(text) == bytes.fromhex(found)


@pytest.mark.parametrize(
    "text",
    [
        " ",
        "0",
        "00112233-4455-6677-8899-aabbccddeef",
        "00112233-4455-6677-8899-aabbccddeeff0",
        "001122334-455-6677-8899-aabbccddeeff",
        "00112233-445566-77-8899-aabbccddeeff",
        "00112233-4455-6677-8899-aabbccddeegg",
        "00112233-4455-6677-8899_aabbccddeeff",
        "{0112233-4455-6677-8899-aabbccddeef}",
        "00112233445566778899aabbccddeeff0000",
        "00112233-44556-677-8899-aabbccddeeff",
        "00112233-445-66777-8899-aabbccddeeff",
        "00112233-445-6677-88999-aabbccddeeff",
        "00112233-4455-6677-e899-aabbccddeeff",
        "00112233-4455-6677-e199-aabbccddeeff",
        "00112233-4455-6677-f899-aabbccddeeff",
        "00112233-4455-6677-8899-aabbccddee\u0661",
    ],
)
def test_no_uuids(text: str) -> None:
    assert parse_uuid(text) is None


# Nothing but Ended

fragments = st.one_of(
    st.text(),
    st.binary().map(os.fsdecode),
    st.sampled_from(
        [
            "-",
            ",",
            ":",
            "kexec",
            "fbsd",
            "bootrom",
            "com1",
            "dummy",
            "lpc",
            "virtio-blk",
            "0x",
            "G",
            "sectorsize=",
            "mac=",
        ]
    ),
    st.sampled_from([f"-{letter}" for letter in "behvuwxMACHPWYfFgcsmlUpS?:"]),
    st.integers().map(str),
)
words = st.lists(fragments, max_size=4).map("".join)


@given(argv=st.lists(words, max_size=8), build=st.sampled_from(BUILDS))
def test_whatever_is_typed(argv: list[str], build: Build) -> None:
    try:
        line = parse(argv, build)
    except Ended as ended:
        assert ended.code in {0, 1, 64}
        assert ended.stdout == ""
        assert ended.stderr.endswith("\n")
    else:
        assert line.firmware is not None or line.bootrom is not None
        assert 0 <= line.memory < 2**64
        assert -(2**31) <= line.cpus < 2**31


@given(options=st.lists(st.tuples(st.sampled_from("fgcsmlU"), words), max_size=5), build=st.sampled_from(BUILDS))
def test_whatever_an_option_is_given(options: list[tuple[str, str]], build: Build) -> None:
    argv = ["xhyve", *(word for letter, argument in options for word in (f"-{letter}", argument)), *KEXEC]
    try:
        line = parse(argv, build)
    except Ended as ended:
        # Each had its argument and there was a firmware, so the usage cannot help.
        assert usage("xhyve", build) not in ended.stderr
    else:
        assert line.firmware == FIRMWARE


@given(config=words, build=st.sampled_from(BUILDS))
def test_whatever_a_device_is_given(config: str, build: Build) -> None:
    for emulation in BLOCK:
        try:
            check_sector_sizes(parse_disk(config, build, emulation), emulation)
        except Ended as ended:
            assert ended.code == 1
    try:
        parse_nic(config, build)
    except Ended as ended:
        assert ended.code == 1
    except SegmentationFault:
        assert build == "hyperkit"
    uuid = parse_uuid(config)
    assert uuid is None or len(uuid) == 16
