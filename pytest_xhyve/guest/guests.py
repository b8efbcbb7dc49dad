"""The guests of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pytest_xhyve.guest.shell import Command
from pytest_xhyve.model.values import suggest

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.lan.switch import Switch
    from pytest_xhyve.model.completed import Completed


class Guests:
    """Guests that were started together, and share LANs: ``guests["server"]`` or ``guests.server``.

    Iteration gives the guests in the order of the marker, so that ``a, b = guests`` works. Used as a context manager,
    they are removed at the end of the block.

    Args:
        guests: each guest, by its name.
        switches: the switch of each LAN, by the LAN's name.
        resources: closed after the guests are removed; this ends the switches.
    """

    def __init__(self, guests: Mapping[str, Guest], switches: Mapping[str, Switch], resources: ExitStack) -> None:
        self._guests = dict(guests)
        self._switches = dict(switches)
        self._resources = resources

    def __getitem__(self, name: str) -> Guest:
        try:
            return self._guests[name]
        except KeyError:
            raise KeyError(self._unknown(name)) from None

    def __getattr__(self, name: str) -> Guest:
        # Without this, copy and pickle would recurse before __init__ has run.
        if name.startswith("_") or name not in self._guests:
            raise AttributeError(self._unknown(name))
        return self._guests[name]

    def __iter__(self) -> Iterator[Guest]:
        return iter(self._guests.values())

    def __len__(self) -> int:
        return len(self._guests)

    def __contains__(self, guest: object) -> bool:
        return guest in self._guests or guest in self._guests.values()

    def __repr__(self) -> str:
        return f"<Guests {', '.join(self._guests)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keep_or_remove(error)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the guests."""
        return tuple(self._guests)

    def run_all(self, command: Command, *, check: bool = True, **options: Any) -> dict[str, Completed]:
        """Run *command* in all guests at the same time.

        Args:
            command: as for `Guest.run`.
            check: whether to raise an error if an exit code is not 0, once the command has ended in all guests.
            options: the other arguments of `Guest.run`.

        Returns:
            the results, by the guest's name.

        Raises:
            XhyveError: that of the first guest in which the command failed; notes name the others.
        """
        __tracebackhide__ = True
        with ThreadPoolExecutor(len(self._guests), "xhyve-run") as pool:
            running = {
                name: pool.submit(guest.run, command, check=check, **options) for name, guest in self._guests.items()
            }
        failed = {name: error for name, each in running.items() if (error := each.exception()) is not None}
        for first, error in failed.items():
            for other, its_error in failed.items():
                if other != first:
                    error.add_note(f"it failed in guest {other}, too: {str(its_error).splitlines()[0]}")
            raise error
        return {name: each.result() for name, each in running.items()}

    def remove(self) -> None:
        """Remove the guests and their LANs. A second call does nothing."""
        with ExitStack() as stack:
            stack.callback(self._resources.close)
            for guest in self:
                stack.callback(guest.remove)

    def _keep_or_remove(self, error: BaseException | None = None) -> None:
        """As `Guest._keep_or_remove`, for each guest."""
        with ExitStack() as stack:
            stack.callback(self._resources.close)
            stack.callback(self._keep_lans)
            for guest in self:
                stack.callback(guest._keep_or_remove, error)

    def _keep_lans(self) -> None:
        """Keep the LANs of kept guests."""
        for lan, switch in self._switches.items():
            if any(guest._instance.process.is_kept for guest in self if lan in guest._instance.lans.names):
                switch.keep()

    def _unknown(self, name: str) -> str:
        guests = self.__dict__.get("_guests", {})
        return f"the cluster has no guest {name!r}{suggest(name, guests)} (known: {', '.join(guests)})"
