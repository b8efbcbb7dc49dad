"""A guest that looks whether it reaches another one."""

from __future__ import annotations


def ping(target: str) -> str:
    """A command for a guest: one packet to *target*, whose answer may take 20 s on a host that is busy."""
    return f"ping -c 1 -W 20 {target}"
