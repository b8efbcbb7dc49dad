"""Why a saved state cannot be restored here: what its hypervisor and its host have that those here have not."""

from __future__ import annotations

from collections.abc import Mapping

BUILD = "build of the hypervisor"
"""The key of `Snapshotter.depends_on` with the digest of the program."""

# These values are long, and not for people.
_NOT_SHOWN = (BUILD, "features of the CPU")


def find_difference(saved: Mapping[str, str], here: Mapping[str, str]) -> str:
    """The first thing in which the two differ, for a message; empty if nothing that *saved* has differs.

    Args:
        saved: what `Snapshotter.depends_on` returned where the state was saved.
        here: what it returns here.
    """
    for name, value in saved.items():
        other = here.get(name, "none")
        if value != other:
            return f"another {name}" if name in _NOT_SHOWN else f"{value}, and this host has {other}"
    return ""
