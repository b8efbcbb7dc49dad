"""The test programs that prove an acceleration, one for each architecture.

Each counts to 2^26, which a CPU does in a tenth of a second and a decoder of single instructions in minutes, and then
ends QEMU in a way that has no other cause.
"""

from __future__ import annotations

import json
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
    """A kernel for arm64 that does what a kernel does first: it turns on the MMU and the caches.

    Without them, a processor fetches each instruction from memory, and would seem to be a decoder. The machine has no
    device that ends QEMU with an exit code, so the letter that the program writes to the serial port is the proof.
    """

    # tests/unit/hypervisors/proof_aarch64.S, assembled: 2^26 rounds of a loop, the letter, PSCI's SYSTEM_OFF.
    code = bytes.fromhex(
        "100000140000000000000000000000000000010000000000000000000000000000000000000000000000000000000000"
        "000000000000000041524d640000000000e09fd200a218d5a0020018402018d580030010002018d51f8708d59f3f03d5"
        "df3f03d5001038d5a1008252000001aa001018d5df3f03d50380a0d2630400f1e1ffff540120a1d2620d8052220000b9"
        "80000018020000d40000001420358000080000841f2003d51f2003d51f2003d51f2003d51f2003d51f2003d51f2003d5"
        "0104000000006000050700400000000000000000000000000000000000000000"
    )
    file = code

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
