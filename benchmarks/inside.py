"""How long the parts of a boot took, as the guest itself tells on its console."""

from __future__ import annotations

import re
from collections.abc import Mapping

# What ends each part. The kernel's clock starts at its first line; the firmware and the unpacking of the kernel are
# before that. Where there is no such line, as systemd's in tiny, the part is left out.
# systemd's later lines have stamps only until the journal takes them, which is now before, now after the network.
_ENDS = (
    ("kernel, to /init", r"Run /init as init process"),
    ("initrd, to the root's mount", r"EXT4-fs \(\w+\): mounted filesystem"),
    ("to systemd's first word", r"systemd\[1\]: systemd \d+"),
    ("systemd, to its first job", r"systemd\[1\]: Queued start job"),
)


def read_stamps(console: str) -> Mapping[str, float]:
    """The seconds of each part that *console* tells of, in their order."""
    parts: dict[str, float] = {}
    last = 0.0
    for name, end in _ENDS:
        # Kernel and guest write on the same port, so a stamp need not begin its line.
        match = re.search(rf"\[ *(\d+\.\d+)\] {end}", console)
        if match is not None:
            parts[name] = float(match[1]) - last
            last = float(match[1])
    return parts
