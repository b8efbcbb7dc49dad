"""Which acceleration works here, proved by running something.

That ``/dev/kvm`` can be opened proves nothing: there are hosts where it makes machines and no guest ever prints a
line, and others where the firmware runs and a kernel does not, as every instruction of it is decoded one by one. So a
boot sector is run that does what a kernel does first, and then counts far enough to tell a CPU from a decoder; its last
deed is to end QEMU with a code that nothing else gives. The answer holds until the host boots again, or QEMU is another
one.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pytest_xhyve.host import proofs
from pytest_xhyve.host.processes import with_parent_death_signal
from pytest_xhyve.host.proofs import Proof

PROOF_SECONDS = 2.0
# tests/unit/boot_sector.S, assembled: long mode with paging, 2^26 rounds of a loop, out 0xf4, 0x10.
_PROGRAM = bytes.fromhex(
    "fa31c08ed8b800108ec0fc31ff6631c0b9000c66f3ab2666c7060000031001002666c706001003200100bf002066b883"
    "0000002666890566050000200083c70881ff003075ed0f0116a87c0f20e06683c8200f22e066b8000001000f22d866b9"
    "800000c00f32660d000100000f300f20c0660d010000800f22c066ea827c00000800b900000004ffc975fcbaf4000000"
    "b010eef4ebfd6690000000000000000000000000009a20000f00987c0000"
)
_BOOT_SECTOR = _PROGRAM.ljust(510, b"\0") + b"\x55\xaa"
# isa-debug-exit ends QEMU with (value << 1) | 1 (hw/misc/debugexit.c in QEMU's sources).
_PROVED = (0x10 << 1) | 1


def candidates() -> tuple[str, ...]:
    """The accelerations that this kind of host may have, best first; ``tcg`` works everywhere."""
    return {"linux": ("kvm", "tcg"), "darwin": ("hvf", "tcg")}.get(sys.platform, ("tcg",))


def prove(executable: str, version: str, acceleration: str, cache: Path) -> Proof:
    """Whether QEMU at *executable* can run a guest with *acceleration*.

    Args:
        executable: QEMU's program.
        version: its version, part of what the answer is remembered by.
        acceleration: ``kvm`` or ``hvf``.
        cache: the folder in which the answer is kept until the host boots again.
    """
    # What an earlier program of ours has proved counts for nothing.
    with_what = (executable, version, hashlib.sha256(_PROGRAM).hexdigest())
    return proofs.prove(acceleration, with_what, cache, lambda: _look(executable, acceleration), keeps_refusals=True)


def _look(executable: str, acceleration: str) -> Proof:
    if acceleration == "kvm":
        device = Path("/dev/kvm")
        if not device.exists():
            return Proof(False, "there is no /dev/kvm")
        if not os.access(device, os.R_OK | os.W_OK):
            return Proof(False, "/dev/kvm may not be opened by this user; add it to the group kvm")
    with tempfile.TemporaryDirectory(prefix="pytest-xhyve-") as folder:
        disk = Path(folder) / "boot.img"
        disk.write_bytes(_BOOT_SECTOR)
        # fmt: off
        argv = [
            executable,
            "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", f"pc,accel={acceleration}",
            "-m", "16",
            "-no-reboot",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
            "-blockdev", json.dumps({"driver": "file", "filename": str(disk), "node-name": "boot"}),
            "-device", "ide-hd,drive=boot",
        ]
        # fmt: on
        try:
            done = subprocess.run(
                with_parent_death_signal(argv),
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROOF_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return Proof(False, f"{acceleration} is there, but a test program hung for {PROOF_SECONDS:g} s")
    if done.returncode == _PROVED:
        return Proof(True, "proved by a test program")
    words = done.stderr.decode(errors="replace").strip().splitlines()
    return Proof(False, words[-1] if words else f"a test program ended QEMU with code {done.returncode}")
