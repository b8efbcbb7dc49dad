"""The phases of a guest's start and their durations, as the console and SSH show them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pytest_xhyve.model.clock import monotonic

FIRMWARE = "firmware"
KERNEL = "kernel"
INITRD = "initrd"
INIT = "init"
BANNER = "SSH banner"
LOGIN = "login"

_IN_ORDER = (FIRMWARE, KERNEL, INITRD, INIT, BANNER, LOGIN)
# Console output that shows that a phase has begun. It comes from the kernel (init/main.c in Linux; printk's time
# stamps), systemd, BusyBox's init, OpenRC and agetty(8). Debian's kernels with TOMOYO print a line when they execute
# /sbin/init (security/tomoyo/load_policy.c).
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
    """The phases of one start, from power-on or from the restore to the login.

    Args:
        first: the first phase.
        on_enter: gets the name of each phase when the phase begins.
    """

    def __init__(self, first: str = FIRMWARE, on_enter: Callable[[str], None] = lambda _: None) -> None:
        self._on_enter = on_enter
        self._begun: dict[str, float] = {}
        self._end: float | None = None
        self.enter(first)

    @property
    def current(self) -> str:
        """The phase that began last."""
        return list(self._begun)[-1]

    @property
    def is_silent(self) -> bool:
        """True until something shows that a kernel runs."""
        return self.current == FIRMWARE

    def enter(self, phase: str) -> None:
        """Begin *phase*; if this phase or a later one has begun already, do nothing."""
        if phase in self._begun or any(later in self._begun for later in _after(phase)):
            return
        self._begun[phase] = monotonic()
        self._on_enter(phase)

    def feed(self, output: bytes) -> None:
        """Begin each phase that this *output* of the console shows."""
        if self.current == LOGIN:
            return
        for phase, sign in _SIGNS:
            if sign.search(output):
                self.enter(phase)

    def stop(self) -> None:
        """End the last phase now."""
        self._end = monotonic()

    def seconds(self) -> Mapping[str, float]:
        """The duration of each phase in seconds, in their order; the last one lasts until now, or until `stop`."""
        begun = list(self._begun.values())
        ends = [*begun[1:], self._end or monotonic()]
        return {phase: end - begin for phase, begin, end in zip(self._begun, begun, ends, strict=True)}


def _after(phase: str) -> tuple[str, ...]:
    return _IN_ORDER[_IN_ORDER.index(phase) + 1 :] if phase in _IN_ORDER else ()
