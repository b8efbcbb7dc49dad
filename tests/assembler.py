"""Machine code of ours is kept as bytes; here its sources are assembled, to see that they say the same."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

needs_assembler = pytest.mark.skipif(
    shutil.which("as") is None or shutil.which("objcopy") is None, reason="no as and objcopy here"
)


def assemble(source: Path, folder: Path) -> bytes:
    """The code that GNU as makes of *source*; *folder* takes what lies between."""
    made = folder / source.with_suffix(".o").name
    subprocess.run(["as", "-o", str(made), str(source)], check=True)
    code = made.with_suffix(".bin")
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", str(made), str(code)], check=True)
    return code.read_bytes()
