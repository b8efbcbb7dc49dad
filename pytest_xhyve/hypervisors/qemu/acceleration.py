"""Which acceleration works on this host; QEMU runs a test program to find out.

That ``/dev/kvm`` opens proves nothing. On some hosts KVM creates machines, but no guest ever prints a line. On others
the firmware runs but a kernel does not, because the host decodes each of its instructions one by one. So QEMU runs a
boot sector that does what a kernel does first. The program then counts far enough to distinguish a CPU from a decoder.
At last it ends QEMU with an exit code that nothing else causes. The result is valid until the host boots again or QEMU
changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from pytest_xhyve.host import proofs
from pytest_xhyve.host.processes import with_parent_death_signal
from pytest_xhyve.host.proofs import Proof
from pytest_xhyve.model.architecture import X86_64

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
    """The accelerations that this platform may have, best first; ``tcg`` works everywhere."""
    return {"linux": ("kvm", "tcg"), "darwin": ("hvf", "tcg")}.get(sys.platform, ("tcg",))


def prove(executable: str, version: str, acceleration: str, cache: Path) -> Proof:
    """Whether QEMU at *executable* can run a guest with *acceleration*.

    Args:
        executable: path of QEMU's program.
        version: its version; the cached result depends on it.
        acceleration: ``kvm`` or ``hvf``.
        cache: the folder for the result, which is valid until the host boots again.
    """
    # The result of an earlier test program does not count.
    depends_on = (executable, version, hashlib.sha256(_PROGRAM).hexdigest())
    return proofs.prove(acceleration, depends_on, cache, lambda: _check(executable, acceleration), keeps_refusals=True)


def _check(executable: str, acceleration: str) -> Proof:
    if not X86_64.is_native():
        return Proof(False, f"the processor of this host is {platform.machine()}, and guests are {X86_64.name}")
    if acceleration == "kvm":
        device = Path("/dev/kvm")
        if not device.exists():
            return Proof(False, "/dev/kvm does not exist")
        if not os.access(device, os.R_OK | os.W_OK):
            return Proof(False, "this user may not open /dev/kvm; add the user to the group kvm")
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
            return Proof(
                False,
                f"the host advertises {acceleration}, but a test program hung for {PROOF_SECONDS:g} s",
            )
    if done.returncode == _PROVED:
        return Proof(True, "proved by a test program")
    output = done.stderr.decode(errors="replace").strip().splitlines()
    return Proof(False, output[-1] if output else f"a test program ended QEMU with exit code {done.returncode}")
