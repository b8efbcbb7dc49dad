"""The files in a guest's folder.

This module imports only the standard library, as the guardian's script is made of it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OUTPUT = "hypervisor.log"
"""The file in a guest's folder with what the hypervisor has printed."""
RECORD = "guest.json"
"""The file in a guest's folder that describes the guest to other processes."""
CONSOLE = "console.log"
"""The file in a guest's folder with the output of its serial port."""
PIDFILE = "hypervisor.pid"
"""The file in a guest's folder that the hypervisor's command line names; it identifies the guest of a process."""


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file at *path*: another process finds the one content or the other."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(content))
    fresh.replace(path)


def remove_tree(folder: Path) -> None:
    """Remove *folder*; retry for a second, because a program may still be writing into it."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)
