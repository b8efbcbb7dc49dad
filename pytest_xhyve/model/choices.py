"""The choices of options and markers, as types."""

from __future__ import annotations

from typing import Literal

StartMode = Literal["auto", "cold", "warm"]
"""How one guest starts: ``cold`` boots it, ``warm`` restores it, ``auto`` restores it if possible."""

RunStartMode = Literal["auto", "cold", "warm", "both"]
"""The same for all guests of a run; ``both`` runs each test on either."""

HypervisorName = Literal["auto", "xhyve", "hyperkit", "qemu"]
"""The program that runs guests; ``auto`` takes the first one that works."""

Acceleration = Literal["auto", "kvm", "hvf", "tcg"]
"""What QEMU runs the guest's CPU by; ``tcg`` emulates it."""

KeepMode = Literal["never", "on-failure", "always"]
"""Which guests stay after the run."""
