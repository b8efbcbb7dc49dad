"""Which part of coming up a guest is in, and how long each part took, as far as that is seen from outside."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping

FIRMWARE = "firmware"
KERNEL = "kernel"
INITRD = "initrd"
INIT = "init"
BANNER = "SSH banner"
LOGIN = "login"

_IN_ORDER = (FIRMWARE, KERNEL, INITRD, INIT, BANNER, LOGIN)
# What shows on the console that a part has begun: the kernel (init/main.c in Linux; printk's time stamps), systemd,
# BusyBox's init and OpenRC, Debian's kernels with TOMOYO when they execute /sbin/init (security/tomoyo/load_policy.c),
# and agetty(8).
_SIGNS = (
    (KERNEL, re.compile(rb"Linux version |^\[ *\d+\.\d{6}\] ", re.MULTILINE)),
    (INITRD, re.compile(rb"Run /init as init process|Loading, please wait")),
    (
        INIT,
        re.compile(rb"Run /(?!init )\S+ as init process|systemd\[1\]: |init started: BusyBox|OpenRC|/sbin/tomoyo-init"),
    ),
    (
        BANNER,
        re.compile(
            rb"^\S+ login: |systemd\[1\]: Startup finished|Reached target \S*(?:multi-user|getty|graphical)\.target"
            rb"|Reached target .*(?:Multi-User System|Login Prompts|Graphical Interface)",
            re.MULTILINE,
        ),
    ),
)


class BootPhases:
    """A guest's way from power-on, or from its template, to the login.

    Args:
        first: what it begins with.
        entered: gets the name of each phase when it begins.
    """

    def __init__(self, first: str = FIRMWARE, entered: Callable[[str], None] = lambda _: None) -> None:
        self._entered = entered
        self._begun: dict[str, float] = {}
        self._end: float | None = None
        self.enter(first)

    @property
    def current(self) -> str:
        """The phase it is in."""
        return list(self._begun)[-1]

    @property
    def is_silent(self) -> bool:
        """Whether nothing has shown that a kernel runs."""
        return self.current == FIRMWARE

    def enter(self, phase: str) -> None:
        """Note that *phase* has begun; nothing happens when it, or one that comes later, has begun before."""
        if phase in self._begun or any(later in self._begun for later in _after(phase)):
            return
        self._begun[phase] = time.monotonic()
        self._entered(phase)

    def feed(self, said: bytes) -> None:
        """Tell from what the console *said* which phase has begun."""
        for phase, sign in _SIGNS:
            if sign.search(said):
                self.enter(phase)

    def stop(self) -> None:
        """Count the last phase's time until now."""
        self._end = time.monotonic()

    def seconds(self) -> Mapping[str, float]:
        """How long each phase took, in seconds, in their order; the last one until now, or until `stop`."""
        begun = list(self._begun.values())
        ends = [*begun[1:], self._end or time.monotonic()]
        return {phase: end - begin for phase, begin, end in zip(self._begun, begun, ends, strict=True)}


def _after(phase: str) -> tuple[str, ...]:
    return _IN_ORDER[_IN_ORDER.index(phase) + 1 :] if phase in _IN_ORDER else ()
