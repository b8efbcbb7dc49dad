"""The test programs that prove an acceleration, one for each architecture.

Each counts to 2^26, which a CPU does in a tenth of a second and a decoder of single instructions in minutes, and then
ends QEMU in a way that has no other cause.
"""

from __future__ import annotations

import json
import struct
from abc import ABC, abstractmethod
from pathlib import Path

from pytest_xhyve.model.architecture import ARM64, X86_64, Architecture


class ProofProgram(ABC):
    """A program that QEMU runs instead of a guest.

    Attributes:
        code: its machine code.
        file: the file that QEMU gets, with the code in it.
    """

    code: bytes
    file: bytes

    @abstractmethod
    def options(self, path: Path, acceleration: str) -> list[str]:
        """The options of QEMU that run the program, whose `file` is at *path*."""

    @abstractmethod
    def has_run(self, status: int, output: bytes) -> bool:
        """Whether QEMU's exit code *status* and its standard output show that the program ran to its end."""


class BootSector(ProofProgram):
    """A boot sector for x86 that does what a kernel does first: it enters long mode with paging."""

    # tests/unit/hypervisors/boot_sector.S, assembled: 2^26 rounds of a loop, out 0xf4, 0x10.
    code = bytes.fromhex(
        "fa31c08ed8b800108ec0fc31ff6631c0b9000c66f3ab2666c7060000031001002666c706001003200100bf002066b883"
        "0000002666890566050000200083c70881ff003075ed0f0116a87c0f20e06683c8200f22e066b8000001000f22d866b9"
        "800000c00f32660d000100000f300f20c0660d010000800f22c066ea827c00000800b900000004ffc975fcbaf4000000"
        "b010eef4ebfd6690000000000000000000000000009a20000f00987c0000"
    )
    file = code.ljust(510, b"\0") + b"\x55\xaa"
    # isa-debug-exit ends QEMU with (value << 1) | 1 (hw/misc/debugexit.c in QEMU's sources).
    _proved = (0x10 << 1) | 1

    def options(self, path: Path, acceleration: str) -> list[str]:
        # fmt: off
        return [
            "-machine", f"pc,accel={acceleration}",
            "-m", "16",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
            "-blockdev", json.dumps({"driver": "file", "filename": str(path), "node-name": "boot"}),
            "-device", "ide-hd,drive=boot",
        ]
        # fmt: on

    def has_run(self, status: int, output: bytes) -> bool:  # noqa: ARG002
        return status == self._proved


class Arm64Image(ProofProgram):
    """A kernel for arm64, in the format Image: it counts, writes a letter to the serial port, and turns itself off.

    The machine has no device that ends QEMU with an exit code, so the letter is the proof. The program does not turn on
    the MMU.
    """

    # The register of the PL011 at 0x0900_0000 (hw/arm/virt.c in QEMU's sources), and PSCI's SYSTEM_OFF (Arm DEN0022).
    code = struct.pack(
        "<10I",
        0xD2A12001,  # mov  x1, #0x09000000
        0x52800D62,  # mov  w2, #'k'
        0xD2A08003,  # mov  x3, #1 << 26
        0xF1000463,  # subs x3, x3, #1
        0x54FFFFE1,  # b.ne the line above
        0xB9000022,  # str  w2, [x1]
        0x52800100,  # mov  w0, #0x0008
        0x72B08000,  # movk w0, #0x8400, lsl #16
        0xD4000002,  # hvc  #0
        0x14000000,  # b    itself
    )
    # The header begins with a jump over itself (Linux, Documentation/arch/arm64/booting.rst).
    file = struct.pack("<IIQQQQQQ4sI", 0x14000010, 0, 0, 1 << 16, 0, 0, 0, 0, b"ARM\x64", 0) + code

    def options(self, path: Path, acceleration: str) -> list[str]:
        # Only "host" can be accelerated.
        cpu = ARM64.emulated_cpus[ARM64.default_cpu] if acceleration == "tcg" else "host"
        return [
            *("-machine", f"{ARM64.machine},accel={acceleration}", "-cpu", cpu, "-m", "64"),
            *("-kernel", str(path), "-serial", "stdio"),
        ]

    def has_run(self, status: int, output: bytes) -> bool:
        return status == 0 and output == b"k"


def program_for(architecture: Architecture) -> ProofProgram:
    """The test program for guests of *architecture*."""
    return {X86_64.name: BootSector, ARM64.name: Arm64Image}[architecture.name]()
