"""How many guests this host has memory for."""

from __future__ import annotations

import psutil

_SHARE_OF_MEMORY = 0.75

# What a guest of the default size costs the host, with the hypervisor's own share. Restored guests share the pages of
# their template: benchmarks/many.py measures about 60 MiB for one that has done nothing yet; a test makes it more.
_BOOTED_BYTES = 640 << 20
_RESTORED_BYTES = 256 << 20
_HYPERVISOR_BYTES = 128 << 20

# What has to stay available beside a guest that nobody has asked for yet.
_MARGIN = 0.1


def guests_for_memory(*, restored: bool) -> int:
    """How many guests may be alive at once, over all processes of this user.

    Args:
        restored: whether guests are restored from templates, and so share most of their memory.
    """
    each = _RESTORED_BYTES if restored else _BOOTED_BYTES
    return max(1, int(psutil.virtual_memory().total * _SHARE_OF_MEMORY / each))


def has_memory_to_spare(memory: int) -> bool:
    """Whether enough is available for a guest with *memory* bytes that nobody has asked for yet."""
    found = psutil.virtual_memory()
    left: int = found.available - memory - _HYPERVISOR_BYTES
    return left > found.total * _MARGIN
