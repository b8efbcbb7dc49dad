from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_xhyve.formats.disk_file import HEAD_BYTES, FileKind, identify
from pytest_xhyve.formats.mbr import master_boot_record
from pytest_xhyve.formats.partitions import needed_size

MIB = 1 << 20


def at(offset: int, magic: bytes) -> bytes:
    return (bytes(offset) + magic).ljust(HEAD_BYTES, b"\1")


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (at(0, b"QFI\xfb"), "qcow2"),
        (at(0, b"KDMV"), "vmdk"),
        (b"# Disk DescriptorFile\nversion=1\n", "vmdk"),
        (at(0x40, b"\x7f\x10\xda\xbe"), "vdi"),
        (at(0, b"vhdxfile"), "vhdx"),
        (at(0, b"conectix"), "vpc"),
        (master_boot_record(8 * MIB, 1), "raw"),
        (at(1080, b"\x53\xef"), "raw"),
        (at(0, b"XFSB"), "raw"),
        (at(0x10040, b"_BHRfS_M"), "raw"),
    ],
)
def test_disks_are_recognized(head: bytes, name: str) -> None:
    assert identify(head) == FileKind("disk", name)


@pytest.mark.parametrize(
    ("head", "kind", "name"),
    [
        (b"", "other", "an empty file"),
        (b"hello\nworld\n", "other", "a text file that begins with 'hello'"),
        (bytes(HEAD_BYTES), "other", "a file of zeros"),
        (at(0x8001, b"CD001"), "other", "ISO"),
        (b"\x00\x01\x02\x03" * 4, "other", "00 01 02 03"),
        (b"PK\x03\x04....", "other", "zip"),
        (b"\xfd7zXZ\x00....", "compressed", "xz"),
        (b"\x1f\x8b\x08....", "compressed", "gzip"),
        (b"\x28\xb5\x2f\xfd...", "compressed", "zstd"),
    ],
)
def test_what_is_not_a_disk_is_named(head: bytes, kind: str, name: str) -> None:
    found = identify(head)
    assert found.kind == kind
    assert name in found.name


def test_installer_that_boots_from_a_stick_is_a_cd() -> None:
    head = bytearray(at(0x8001, b"CD001"))
    head[510:512] = b"\x55\xaa"
    assert identify(bytes(head)).kind == "other"


@given(st.binary(max_size=600))
def test_any_bytes_are_something(head: bytes) -> None:
    assert identify(head).name
    assert needed_size(head.ljust(17408, b"\0")) >= 0


def test_partition_needs_its_whole_size() -> None:
    assert needed_size(master_boot_record(8 * MIB, 1).ljust(17408, b"\0")) == 8 * MIB


def test_gpt_partition_needs_its_whole_size() -> None:
    head = bytearray(17408)
    head[446:462] = struct.pack("<B3sB3sII", 0, b"\0\0\0", 0xEE, b"\0\0\0", 1, 0xFFFFFFFF)
    head[510:512] = b"\x55\xaa"
    head[512:520] = b"EFI PART"
    struct.pack_into("<QII", head, 512 + 72, 2, 128, 128)
    struct.pack_into("<16s16sQQ", head, 1024, b"t" * 16, b"u" * 16, 2048, 16383)
    assert needed_size(bytes(head)) == 8 * MIB
