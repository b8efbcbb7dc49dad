"""The agent's program, for each architecture: machine code that makes system calls (see `pytest_xhyve.guest.agent`)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pytest_xhyve.model.architecture import ARM64, X86_64, Architecture

BUFFER = 0x500000
"""The address of the memory that takes a message."""
BUFFER_SIZE = 1 << 16
_CODE_AT = 0x400000


@dataclass(frozen=True, slots=True)
class _Code:
    """The program's code.

    Attributes:
        align: the largest page that its kernels have.
        code: the instructions.
    """

    align: int
    code: bytes


# The machine code of tests/unit/guest/agent.S and agent_aarch64.S; a test compares them.
_CODES: Mapping[str, _Code] = MappingProxyType(
    {
        X86_64.name: _Code(
            align=0x1000,
            code=bytes.fromhex(
                # message: read the length, then that many bytes
                "41bc00005000 41bd08000000 e85b000000 448b2c2500005000 e84e000000 41bc08005000"
                # call: a negative number ends the list
                "498b0424 4885c0 782a 498b7c2408 498b742410 498b542418 4d8b542420 4d8b442428 4d8b4c2430 0f05"
                # the result replaces the number
                "49890424 4983c438 ebcd"
                # answer: write all results to standard output, then read the next message
                "b801000000 89c7 be08005000 4489e2 29f2 0f05 eb94"
                # fill: read r13 bytes to the address in r12
                "31c0 31ff 4c89e6 4489ea 0f05 85c0 7e09 4901c4 4129c5 75e8 c3"
                # leave: exit when the port is closed
                "89c7 b83c000000 0f05"
            ),
        ),
        ARM64.name: _Code(
            align=0x10000,
            code=bytes.fromhex(
                # message
                "130aa0d2 140180d2 15000094 090aa0d2 340140f9 12000094 130aa0d2 73220091"
                # call
                "680240f9 e800f8b7 608640a9 628e41a9 649642a9 010000d4"
                # the result replaces the number
                "608603f8 f9ffff17"
                # answer
                "200080d2 010aa0d2 21200091 620201cb 080880d2 010000d4 eaffff17"
                # fill: read x20 bytes to the address in x19
                "000080d2 e10313aa e20314aa e80780d2 010000d4 1f0000f1 ad000054 7302008b 940200eb e1feff54 c0035fd6"
                # leave
                "a80b80d2 010000d4"
            ),
        ),
    }
)


def build_program(architecture: Architecture) -> bytes:
    """The agent as an executable file: ELF header, headers of a code and a memory segment, and the code (elf(5))."""
    made = _CODES[architecture.name]
    headers = 64 + 2 * 56
    size = headers + len(made.code)
    # ELFCLASS64, ELFDATA2LSB, EV_CURRENT; ET_EXEC.
    start = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, architecture.elf_machine, 1, _CODE_AT + headers, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    code = struct.pack("<IIQQQQQQ", 1, 0b101, 0, _CODE_AT, _CODE_AT, size, size, made.align)
    memory = struct.pack("<IIQQQQQQ", 1, 0b110, 0, BUFFER, BUFFER, 0, BUFFER_SIZE, made.align)
    return start + code + memory + made.code
