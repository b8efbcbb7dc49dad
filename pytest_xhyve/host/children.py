"""CommandRunner that this process starts itself and waits for."""

from __future__ import annotations

import shutil
from collections.abc import Sequence


def with_parent_death_signal(argv: Sequence[str], by: str = "KILL") -> list[str]:
    """The command line *argv*, made so that the program gets the signal *by* when this process is killed.

    Only where the host can do that: setpriv(1) asks the kernel; Linux has it, macOS has not. What the program starts
    itself is not reached.
    """
    setpriv = shutil.which("setpriv")
    return [*([setpriv, "--pdeathsig", by, "--"] if setpriv else []), *argv]
