"""Reset shared guests together, to one moment: those of a cluster, or a single one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pytest_xhyve.templates.checkpoints import Checkpoint
from pytest_xhyve.templates.reset import Reset

Result = TypeVar("Result")


class GuestsReset:
    """Does for several guests what `Reset` does for one.

    Args:
        resets: that of each guest.
        heal: ends the faults of their LANs.
    """

    def __init__(self, resets: Sequence[Reset], heal: Callable[[], None]) -> None:
        self._resets = resets
        self._heal = heal

    @property
    def can_save(self) -> bool:
        """Whether each guest's memory is in a file, so that `save` is possible."""
        return all(reset.can_save for reset in self._resets)

    def save(self) -> tuple[Checkpoint, ...]:
        """Save all guests as they are at one moment, which ends their machines.

        Raises:
            XhyveError: a guest is off or does not answer, or no space is left.
        """
        self._each(Reset.prepare)
        # Frames between the guests that are on their way are lost, as on any network.
        for reset in self._resets:
            reset.pause()
        return tuple(self._each(Reset.save))

    def restore(self, *, recorded: bool = False) -> None:
        """Restore all guests from the last checkpoint.

        Args:
            recorded: whether their memory is in files again, so that they can be saved once more.

        Raises:
            XhyveError: a guest cannot be restored, or an earlier `save` failed.
        """
        self._heal()
        # A guest that still runs would answer those that are restored already, and break their connections.
        self._each(Reset.end)
        self._each(lambda reset: reset.restore(recorded=recorded))

    def forget(self, checkpoints: tuple[Checkpoint, ...] | None) -> None:
        """Do not restore the last checkpoint again; see `Reset.forget`."""
        for number, reset in enumerate(self._resets):
            reset.forget(None if checkpoints is None else checkpoints[number])

    def _each(self, action: Callable[[Reset], Result]) -> list[Result]:
        """Do *action* for all guests at the same time; the error is that of the first guest that has one."""
        if len(self._resets) == 1:
            # In this thread, which Ctrl-C reaches.
            return [action(self._resets[0])]
        with ThreadPoolExecutor(len(self._resets), "xhyve-reset") as pool:
            return list(pool.map(action, self._resets))
