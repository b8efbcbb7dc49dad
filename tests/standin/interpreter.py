"""How the scripts that are written here are run: by this Python, and with as little of it as makes it start fast."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

# Isolated from the user's environment, and without site-packages: the standard library is enough.
_OPTIONS = "-IS"


def shebang(interpreter: Path | None = None) -> str:
    """The first line of a script that *interpreter* runs; without one, this Python."""
    program = interpreter or Path(os.path.realpath(sys.executable))
    return f"#!{program} {_OPTIONS}"


def copy_setuid(folder: Path) -> Path:
    """Make a copy of this Python in *folder* that runs as root whoever starts it, which no script itself can."""
    real = Path(os.path.realpath(sys.executable))
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / "bin" / real.name
    copy.parent.mkdir(exist_ok=True)
    shutil.copyfile(real, copy)
    copy.chmod(stat.S_ISUID | 0o755)
    # By this it finds the standard library, as in a virtual environment.
    (folder / "pyvenv.cfg").write_text(f"home = {real.parent}\n")
    return copy
