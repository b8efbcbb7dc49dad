"""logrus's lines, as it writes them to what is no terminal."""

from __future__ import annotations

import json
import time

from standin.process import Process


def write(level: str, message: str, process: Process) -> None:
    """Log *message* to the standard error."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    process.say(f'time="{now[:-2]}:{now[-2:]}" level={level} msg={json.dumps(message)}\n')
