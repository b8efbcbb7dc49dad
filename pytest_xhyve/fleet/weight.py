"""What a guest costs of the host's memory, and how much all guests may take."""

from __future__ import annotations

from pytest_xhyve.host.memory import Memory

_MEMORY_SHARE = 0.75

# What hypervisors were measured to take of the host's memory (PSS), on guests with 256 MiB, 1 GiB and 4 GiB of memory.
# Booted, under emulation: 250 to 420 MiB, and 390 to 570 MiB after a test that read all files and wrote 100 MiB.
_BOOTED_SHARE = 0.5
_BOOTED_EXTRA = 256 << 20

# Restored, so that they share the pages of their template: 66 to 86 MiB, and 210 to 240 MiB after the same.
_RESTORED_SHARE = 0.3
_RESTORED_LEAST = 64 << 20
_RESTORED_EXTRA = 64 << 20

# The share of the host's memory that must stay available when a prewarmed guest starts.
_SPARE_SHARE = 0.1


def weigh_guest(memory: int, *, restored: bool) -> int:
    """Bytes of the host's memory that a guest costs, with its hypervisor.

    Args:
        memory: bytes of the guest's memory.
        restored: whether it is restored from a template, and so shares most of its memory.
    """
    if restored:
        return max(_RESTORED_LEAST, int(memory * _RESTORED_SHARE)) + _RESTORED_EXTRA
    return int(memory * _BOOTED_SHARE) + _BOOTED_EXTRA


def guests_memory(memory: Memory) -> int:
    """Bytes of *memory* that all guests of a user may take together."""
    return int(memory.total * _MEMORY_SHARE)


def has_spare_memory(memory: Memory, weight: int) -> bool:
    """Whether a prewarmed guest of *weight* bytes would leave a tenth of *memory* available."""
    return memory.available - weight > memory.total * _SPARE_SHARE
