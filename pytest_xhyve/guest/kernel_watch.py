"""Whether a guest's kernel has panicked, halted or restarts, as its console shows it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pytest_xhyve.guest.console import Console, ConsoleError
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import BootFailed, KernelPanic

ANSWER_SECONDS = 3.0
"""How long a guest may take to answer after its console has shown a panic, or that it halts or restarts."""

LAST_LINES = 6
"""Lines of the console in a message; a test report shows more."""

# What a kernel prints that restarts after a panic (panic= on its command line), and what the next one prints.
_RESTART = re.compile(rb"Rebooting in \d+ seconds|reboot: |Linux version ")
_RESTART_BYTES = 1 << 16


@dataclass(slots=True)
class _Suspicion:
    """A message of the console after which a guest cannot boot; any program can write such a message, too.

    Attributes:
        error: the message.
        size: the size of the console's output when it was looked at last.
        since: since when the console has been silent, on the monotonic clock.
    """

    error: ConsoleError
    size: int
    since: float


class KernelWatch:
    """Watches the console from one start of a guest to the next.

    Args:
        name: the guest's name, for messages.
        console: its console.
        saw: called with each piece of new output.
    """

    def __init__(self, name: str, console: Console, saw: Callable[[bytes], None]) -> None:
        self._name = name
        self._console = console
        self._watch = console.watch(saw)
        self._panic: KernelPanic | None = None
        self._suspicion: _Suspicion | None = None

    @property
    def ending(self) -> str | None:
        """The message with which the kernel has halted or restarted; None if it has not since the last login."""
        return self._watch.ending

    @property
    def suspicion(self) -> str | None:
        """A message after which a guest cannot boot, as long as it does not count."""
        return None if self._suspicion is None else self._suspicion.error.line

    def has_restarted(self, size: int) -> bool:
        """Whether the console shows a restart after its first *size* bytes; any program can write that, too."""
        if self.ending is not None:
            return True
        return _RESTART.search(self._console.read_part(size, _RESTART_BYTES)) is not None

    def forget(self) -> None:
        """Forget what the console has shown so far: the guest has let the plugin log in."""
        self._panic = self._suspicion = None
        self._watch.ending = None

    def check(self, answers: Callable[[], bool], *, is_booting: bool) -> None:
        """Raise an error if the kernel has panicked.

        Any program can write a panic on the console, so it counts only if the guest does not answer.

        Args:
            answers: whether the guest answers over a connection.
            is_booting: whether the guest cannot answer yet. Then any error after which a guest cannot boot counts,
                once the console is silent for some seconds, or shows that the kernel restarts.

        Raises:
            KernelPanic: see above; the message contains the kernel's.
        """
        error = self._watch.find_error()
        if error is not None and (is_booting or error.panic) and not answers():
            if is_booting:
                self._suspect(error)
            else:
                self._condemn(error)
        if is_booting and self._suspicion is not None and self._is_confirmed(self._suspicion):
            self._condemn(self._suspicion.error)
        if self._panic is not None:
            raise self._panic

    def check_halted(self) -> None:
        """Raise an error if the kernel has halted.

        Raises:
            BootFailed: see above.
        """
        if self.ending is not None and "halted" in self.ending:
            raise BootFailed(
                f"guest {self._name} does not answer: its kernel has halted ({self.ending!r} on its console)\n"
                "  kill() and start() boot it again",
                console=self._console.tail(LAST_LINES),
            )

    def _suspect(self, error: ConsoleError) -> None:
        known = self._suspicion
        if known is not None and (known.error.panic or not error.panic):
            # A kernel prints a panic twice.
            error = known.error
        self._suspicion = _Suspicion(error, self._console.size, monotonic())

    def _is_confirmed(self, suspicion: _Suspicion) -> bool:
        size = self._console.size
        if size == suspicion.size:
            return monotonic() - suspicion.since > ANSWER_SECONDS
        new = self._console.read_part(suspicion.size, _RESTART_BYTES)
        suspicion.size, suspicion.since = size, monotonic()
        return _RESTART.search(new) is not None

    def _condemn(self, error: ConsoleError) -> None:
        what = f"the kernel of guest {self._name} panicked" if error.panic else f"guest {self._name} cannot boot"
        self._panic = KernelPanic(f"{what}: {error.line}", console=self._console.around(error.line))
