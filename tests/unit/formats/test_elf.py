"""Which libraries a program needs, read from programs of this host and from damaged ones."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_xhyve.formats.elf import Needs, read_needs


def program(
    *, machine: int = 183, interpreter: bytes = b"/lib/ld.so\0", tags: tuple[tuple[int, int], ...] = ()
) -> bytes:
    """A program for arm64 whose only segments are those that are read; its texts begin at the address 0x400200."""
    texts = b"\0libc.so.6\0libm.so.6\0/usr/lib/own:$ORIGIN\0"
    dynamic = b"".join(struct.pack("<qQ", *tag) for tag in (*tags, (0, 0)))
    segments = [
        (1, 0x200, 0x400200, len(texts)),
        (2, 0x300, 0x400300, len(dynamic)),
        (3, 0x400, 0x400400, len(interpreter)),
    ]
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    table = b"".join(
        struct.pack("<IIQQQQQQ", kind, 4, offset, address, address, size, size, 1)
        for kind, offset, address, size in segments
    )
    content = bytearray(0x400) + interpreter
    content[: len(header + table)] = header + table
    content[0x200 : 0x200 + len(texts)] = texts
    content[0x300 : 0x300 + len(dynamic)] = dynamic
    return bytes(content)


STRTAB = (5, 0x400200)


def test_a_program_for_another_processor() -> None:
    needed = program(tags=((1, 1), (1, 11), (29, 21), STRTAB))
    assert read_needs(needed) == Needs("/lib/ld.so", ("libc.so.6", "libm.so.6"), ("/usr/lib/own", "$ORIGIN"))
    assert read_needs(program()) == Needs("/lib/ld.so")


def test_a_program_of_this_host() -> None:
    needs = read_needs(Path(sys.executable).resolve().read_bytes())
    assert needs is not None
    assert needs.interpreter is not None
    assert needs.interpreter.startswith("/lib")
    assert "libc.so.6" in needs.libraries


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(60)])
def test_what_is_no_program(content: bytes) -> None:
    assert read_needs(content) is None


@pytest.mark.parametrize(
    "content",
    [
        program()[:0x40],
        # A text outside of the file, and a table in no segment.
        program(tags=((1, 1 << 40), STRTAB)),
        program(tags=((1, 1), (5, 0x10))),
        program(interpreter=b"/lib/ld.so"),
    ],
)
def test_damaged_program_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"truncated|outside"):
        read_needs(content)


@given(st.binary(max_size=200), st.integers(0, 0x400))
def test_any_bytes(noise: bytes, at: int) -> None:
    content = bytearray(program(tags=((1, 1), STRTAB)))
    content[at : at + len(noise)] = noise
    try:
        read_needs(bytes(content))
    except ValueError as error:
        assert str(error)
