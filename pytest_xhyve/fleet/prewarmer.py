"""Guests that are made in the background, before the tests that will ask for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_xhyve.fleet.request import ForegroundRequest, PrewarmRequest, Request
from pytest_xhyve.model.errors import Cancelled, XhyveError
from pytest_xhyve.model.spec import GuestSpec

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest

_THREAD = "xhyve-prewarm"


class Maker(Protocol):
    """What makes guests: `pytest_xhyve.fleet.fleet.Fleet`."""

    make_room: Callable[[], bool]

    def start(self, request: Request) -> Guest:
        """A running guest."""


@dataclass(frozen=True)
class _Ready:
    request: PrewarmRequest
    guest: Guest


class Prewarmer:
    """Keeps guests ready for what is expected, and owns them until they are handed over.

    One thread makes and removes them, one at a time. It begins none while somebody waits for a guest that is started
    for him. What a run does for the first time (an image that is built, a template that is made) is left to the test
    that asks for it: so the thread is started with the first guest that a test got, and makes guests of images only
    that a test has had.

    Args:
        fleet: makes the guests.
        count: how many may be ready at once.
    """

    def __init__(self, fleet: Maker, count: int) -> None:
        self._fleet = fleet
        self._count = count
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._expected: list[GuestSpec] = []
        self._used_images: list[object] = []
        self._failed: list[GuestSpec] = []
        self.waiting = 0
        """How many wait for a guest just now."""
        self._out_of_room = False
        self.is_busy = False
        """Whether the thread makes or removes a guest just now."""
        self._starting: PrewarmRequest | None = None
        self._ready: list[_Ready] = []
        self._to_remove: list[Guest] = []
        fleet.make_room = self.make_room

    def close(self) -> None:
        """End the thread, and what it is making, and take away what nobody asked for."""
        with self._changed:
            self._is_closed = True
            if self._starting is not None:
                self._starting.cancel()
            self._changed.notify_all()
        with ExitStack() as stack:
            stack.callback(self._remove_all)
            if self._thread is not None:
                self._thread.join()

    def count_ready(self) -> int:
        """How many guests wait for a test just now."""
        with self._changed:
            return len(self._ready)

    def expect(self, specs: Sequence[GuestSpec]) -> None:
        """Be told anew what will be asked for, the next first; whatever else is ready is thrown away."""
        with self._changed:
            self._expected = list(specs)
            self._out_of_room = False
            left = self._expected[: self._count]
            for ready in list(self._ready):
                if ready.request.spec in left:
                    left.remove(ready.request.spec)
                else:
                    self._ready.remove(ready)
                    self._to_remove.append(ready.guest)
            if self._starting is not None and self._starting.spec not in left:
                self._starting.cancel()
            self._changed.notify_all()

    def start_guest(self, spec: GuestSpec, requested_by: str) -> Guest:
        """A guest that was made ahead, or else one that is made now.

        Args:
            spec: what it shall be made of.
            requested_by: who wants it.

        Raises:
            XhyveError: in one of its kinds.
        """
        with self._wait_of_a_test(spec):
            guest = self._take(spec, requested_by)
            if guest is None:
                guest = self._fleet.start(ForegroundRequest(spec, requested_by))
            with self._changed:
                self._used_images = [image for image in self._used_images if image != spec.image] + [spec.image]
                self._failed = [failed for failed in self._failed if failed != spec]
                self._start_thread()
        return guest

    def make_room(self) -> bool:
        """Throw away one guest that nobody has asked for yet; False when there is none."""
        with self._changed:
            if self.is_busy:
                if self._starting is not None:
                    self._starting.cancel()
                self._changed.wait_for(lambda: not self.is_busy)
                return True
            if self._to_remove:
                guest = self._to_remove.pop()
            elif self._ready:
                # The one that would be asked for last.
                guest = self._ready.pop().guest
            else:
                return False
        guest.remove()
        return True

    @contextmanager
    def _wait_of_a_test(self, spec: GuestSpec) -> Iterator[None]:
        """While a test waits for *spec*, which is expected no longer at the end of the block, no guest is begun."""
        with self._changed:
            self.waiting += 1
        try:
            yield
        finally:
            with self._changed:
                self.waiting -= 1
                if spec in self._expected:
                    self._expected.remove(spec)
                self._changed.notify_all()

    def _take(self, spec: GuestSpec, requested_by: str) -> Guest | None:
        """A ready guest made of *spec*, or the one that is just being made: that was begun before ours could be."""
        with self._changed:
            while True:
                found = next((ready for ready in self._ready if ready.request.spec == spec), None)
                if found is not None:
                    self._ready.remove(found)
                    if found.guest.is_healthy():
                        found.request.requested_by = requested_by
                        found.guest._prewarmed = True
                        return found.guest
                    self._to_remove.append(found.guest)
                elif self._starting is not None and self._starting.spec == spec and not self._starting.is_cancelled:
                    self._changed.wait()
                else:
                    return None

    def _start_thread(self) -> None:
        if self._thread is None and not self._is_closed:
            # Nothing waits for it when the interpreter ends without `close`; the guardian takes its guests away.
            self._thread = threading.Thread(target=self._work, name=_THREAD, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (step := self._next_step()) is not None:
            try:
                step()
            finally:
                with self._changed:
                    self.is_busy = False
                    self._starting = None
                    self._changed.notify_all()

    def _next_step(self) -> Callable[[], None] | None:
        """What is to be done next, waited for; None at the end."""
        with self._changed:
            while not self._is_closed:
                if self._to_remove:
                    self.is_busy = True
                    guest = self._to_remove.pop()
                    return lambda: _remove(guest)
                spec = self._find_missing()
                if spec is not None:
                    self.is_busy = True
                    self._starting = request = PrewarmRequest(spec)
                    return lambda: self._start(request)
                self._changed.wait()
            return None

    def _find_missing(self) -> GuestSpec | None:
        """The first that is expected, not ready, and may be begun now."""
        if self.waiting or self._out_of_room or len(self._ready) >= self._count:
            return None
        there = [ready.request.spec for ready in self._ready]
        for spec in self._expected[: self._count]:
            if spec in there:
                there.remove(spec)
            elif spec.image in self._used_images and spec not in self._failed:
                return spec
        return None

    def _start(self, request: PrewarmRequest) -> None:
        try:
            guest = self._fleet.start(request)
        except Exception as error:
            with self._changed:
                if request.is_cancelled:
                    # It was ended by force, and what went wrong is that.
                    return
                if isinstance(error, Cancelled):
                    # It cannot be had now; with the next test it may be otherwise.
                    self._out_of_room = True
                else:
                    # The test that asks for it will meet the same, and it is the one who tells.
                    self._failed.append(request.spec)
            return
        with self._changed:
            if request.is_cancelled or self._is_closed:
                self._to_remove.append(guest)
            else:
                self._ready.append(_Ready(request, guest))

    def _remove_all(self) -> None:
        with ExitStack() as stack:
            for guest in [*self._to_remove, *(ready.guest for ready in self._ready)]:
                stack.callback(guest.remove)
            self._to_remove.clear()
            self._ready.clear()


def in_background() -> bool:
    """Whether the caller runs on the thread that prewarms guests."""
    return threading.current_thread().name == _THREAD


def _remove(guest: Guest) -> None:
    try:
        guest.remove()
    except (XhyveError, OSError):
        # The guardian removes it at the end of the run, and no test has seen it.
        return
