"""The stand-in's command line against the sources of xhyve and hyperkit, without starting anything."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standin.commandline import Build, CommandLine, Device, Ended, Firmware, NotSimulated, parse, parse_memory
from standin.devices import parse_uuid
from standin.typed import BUILDS, FIRMWARE, KEXEC, each_build, end, read, wrong_option
from standin.usage import usage, version

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
    assert end("-fkexec", "-sbad", build="head")[2] == "Invalid firmware argument\n"
    assert end("-zmbad", build=build) == wrong_option("illegal option -- z", build)
    # -h and -v end it where they stand.
    assert end("-h", "-mbad", build=build)[0] == 0
    assert end("-Avz", build=build)[0] == 0
    assert end("-mbad", "-h", build=build)[0] == 64
    assert end("-mbad", "-v", build=build)[0] == 64


# Usage and version


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


# Firmware


@each_build
@pytest.mark.parametrize(
    ("text", "firmware"),
    [
        ("kexec,/k,/i,console=ttyS0", Firmware("/k", "/i", "console=ttyS0")),
        ("kexec,k,,", Firmware("k")),
        ("kexec,k,,c", Firmware("k", "", "c")),
        ("kexec,k,i,a=1,2 b=,", Firmware("k", "i", "a=1,2 b=,")),
        ('kexec,"k",\'i\',"c\\,d"', Firmware('"k"', "'i'", '"c\\,d"')),
        ("kexecfoo,k,i,c", FIRMWARE),
        # Nothing looks for the files.
        ("kexec,/nowhere/vmlinuz,/nowhere/initrd,", Firmware("/nowhere/vmlinuz", "/nowhere/initrd")),
    ],
)
def test_firmware(build: Build, text: str, firmware: Firmware) -> None:
    assert read("-f", text, build=build).firmware == firmware


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
        firmware=Firmware("test/vmlinuz", "test/initrd.gz", "earlyprintk=serial console=ttyS0"),
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
    except NotSimulated:
        assert any("f" in word for word in argv)
    except Ended as ended:
        assert ended.code in {0, 1, 64}
        assert ended.stdout == ""
        assert ended.stderr.endswith("\n")
    else:
        assert line.firmware is not None
        assert 0 <= line.memory < 2**64
        assert -(2**31) <= line.cpus < 2**31


@given(options=st.lists(st.tuples(st.sampled_from("fgcsmlU"), words), max_size=5), build=st.sampled_from(BUILDS))
def test_whatever_an_option_is_given(options: list[tuple[str, str]], build: Build) -> None:
    argv = ["xhyve", *(word for letter, argument in options for word in (f"-{letter}", argument)), *KEXEC]
    try:
        line = parse(argv, build)
    except NotSimulated:
        assert "-f" in argv
    except Ended as ended:
        # Each had its argument and there was a firmware, so the usage cannot help.
        assert usage("xhyve", build) not in ended.stderr
    else:
        assert line.firmware == FIRMWARE
