from __future__ import annotations

import struct

from pytest_xhyve.formats.mbr import FIRST, SECTOR, has_boot_loader, has_signature, master_boot_record

GIB = 1 << 30


def test_one_linux_partition_to_the_end() -> None:
    record = master_boot_record(GIB, 0x12345678)
    assert len(record) == SECTOR
    assert record[510:] == b"\x55\xaa"
    assert record[440:444] == bytes.fromhex("78563412")
    entry, others = record[446:462], record[462:510]
    assert others == bytes(48)
    # Linux takes the table for none at all when this is neither 0 nor 0x80.
    assert entry[0] == 0
    assert entry[4] == 0x83
    start, sectors = struct.unpack_from("<II", entry, 8)
    assert start * SECTOR == FIRST == 1 << 20
    assert (start + sectors) * SECTOR == GIB


def test_a_boot_loader_is_code_before_the_table() -> None:
    table = master_boot_record(64 << 20, 1)
    assert has_signature(table)
    assert not has_boot_loader(table)
    assert has_boot_loader(b"\xeb\x63" + table[2:])
    assert not has_signature(bytes(512))
    assert not has_boot_loader(b"\xeb\x63" + bytes(510))
    assert not has_boot_loader(b"")
