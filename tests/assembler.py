"""Machine code of ours is kept as bytes; here its sources are assembled, to see that they say the same."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

needs_assembler = pytest.mark.skipif(
    shutil.which("as") is None or shutil.which("objcopy") is None, reason="no as and objcopy here"
)


def assemble(source: Path, folder: Path, prefix: str = "") -> bytes:
    """The code that GNU as makes of *source*; *folder* takes what lies between.

    *prefix* is that of the names of the tools for another processor; the test is skipped if they are not there.
    """
    if shutil.which(f"{prefix}as") is None or shutil.which(f"{prefix}objcopy") is None:
        pytest.skip(f"no {prefix}as and {prefix}objcopy here")
    made = folder / source.with_suffix(".o").name
    subprocess.run([f"{prefix}as", "-o", str(made), str(source)], check=True)
    code = made.with_suffix(".bin")
    subprocess.run([f"{prefix}objcopy", "-O", "binary", "-j", ".text", str(made), str(code)], check=True)
    return code.read_bytes()
