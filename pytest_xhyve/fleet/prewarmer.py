"""Prewarmed guests: started in the background, before the tests that will ask for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_xhyve.fleet.request import ForegroundRequest, PrewarmRequest, Request
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import Cancelled, XhyveError
from pytest_xhyve.model.spec import GuestSpec

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest

_THREAD = "xhyve-prewarm"
# How often the thread looks whether a test of another process waits for a slot, while guests are ready.
_LOOK_SECONDS = 0.5


class GuestStarter(Protocol):
    """The part of `pytest_xhyve.fleet.fleet.Fleet` that the prewarmer uses."""

    free_slot: Callable[[], bool]

    def start(self, request: Request) -> Guest:
        """Start a guest, and return it when it is reachable over SSH."""

    def others_wait(self) -> bool:
        """Whether a test of another process waits for a slot."""


@dataclass(frozen=True)
class _Ready:
    request: PrewarmRequest
    guest: Guest


class Prewarmer:
    """Starts the expected guests, and owns each one until a test takes it.

    One thread starts and removes them, one at a time. It starts none while a test waits for a guest. The first guest
    of an image is left to the test that asks for it, as the image or its template may have to be built. So the thread
    begins after the first guest of a test, and only uses images that a test has used.

    Args:
        fleet: starts the guests.
        count: number of guests that may be ready at the same time.
    """

    def __init__(self, fleet: GuestStarter, count: int) -> None:
        self._fleet = fleet
        self._count = count
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._expected: list[GuestSpec] = []
        self._used_images: list[object] = []
        self._failed: list[GuestSpec] = []
        self.waiting_tests = 0
        """Number of tests that wait for a guest now."""
        self._out_of_room = False
        self.is_busy = False
        """Whether the thread is starting or removing a guest now."""
        self._starting: PrewarmRequest | None = None
        self._ready: list[_Ready] = []
        self._to_remove: list[Guest] = []
        self._next_look = 0.0
        fleet.free_slot = self.free_slot

    def close(self) -> None:
        """Cancel the start that is going on, end the thread, and remove the guests that no test took."""
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
        """Number of guests that are ready for a test."""
        with self._changed:
            return len(self._ready)

    def find_missing(self, specs: Sequence[GuestSpec]) -> list[GuestSpec]:
        """Those of *specs* for which no guest is ready or starting."""
        with self._changed:
            there = [ready.request.spec for ready in self._ready]
            if self._starting is not None and not self._starting.is_cancelled:
                there.append(self._starting.spec)
        missing = []
        for spec in specs:
            if spec in there:
                there.remove(spec)
            else:
                missing.append(spec)
        return missing

    def expect(self, specs: Sequence[GuestSpec]) -> None:
        """Replace the expected guests by *specs*, the next first; remove the ready guests that are not among them."""
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
        """Take a prewarmed guest for a test, or else start one now.

        Args:
            spec: what the guest is made of.
            requested_by: the test, class, module or session that the guest is for.

        Raises:
            XhyveError: the guest cannot be started; the class of the error states the reason.
        """
        with self._test_waits_for(spec):
            guest = self._take_prewarmed(spec, requested_by)
            if guest is None:
                guest = self._fleet.start(ForegroundRequest(spec, requested_by))
            with self._changed:
                self._used_images = [image for image in self._used_images if image != spec.image] + [spec.image]
                self._failed = [failed for failed in self._failed if failed != spec]
                self._start_thread()
        return guest

    def free_slot(self) -> bool:
        """Remove one guest that no test has asked for yet; False if there is none."""
        with self._changed:
            if self.is_busy:
                if self._starting is not None:
                    self._starting.cancel()
                self._changed.wait_for(lambda: not self.is_busy)
                return True
            if self._to_remove:
                guest = self._to_remove.pop()
            elif self._ready:
                # The one that is needed last.
                guest = self._ready.pop().guest
            else:
                return False
        guest.remove()
        return True

    @contextmanager
    def _test_waits_for(self, spec: GuestSpec) -> Iterator[None]:
        """In the block, the thread starts no guest; at its end, *spec* is no longer expected."""
        with self._changed:
            self.waiting_tests += 1
        try:
            yield
        finally:
            with self._changed:
                self.waiting_tests -= 1
                if spec in self._expected:
                    self._expected.remove(spec)
                self._changed.notify_all()

    def _take_prewarmed(self, spec: GuestSpec, requested_by: str) -> Guest | None:
        """A ready guest made of *spec*; waits for one that is being started, which is faster. None if there is none."""
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
            # If the interpreter ends without `close`, it does not wait for a daemon; the guardian removes the guests.
            self._thread = threading.Thread(target=self._run_thread, name=_THREAD, daemon=True)
            self._thread.start()

    def _run_thread(self) -> None:
        while (step := self._wait_for_step()) is not None:
            try:
                step()
            finally:
                with self._changed:
                    self.is_busy = False
                    self._starting = None
                    self._changed.notify_all()

    def _wait_for_step(self) -> Callable[[], None] | None:
        """Wait for the next guest to remove or start, and return the function that does it; None after `close`."""
        with self._changed:
            while not self._is_closed:
                self._give_way()
                if self._to_remove:
                    self.is_busy = True
                    guest = self._to_remove.pop()
                    return lambda: _remove(guest)
                spec = self._find_missing()
                if spec is not None:
                    self.is_busy = True
                    self._starting = request = PrewarmRequest(spec)
                    return lambda: self._start(request)
                self._changed.wait(_LOOK_SECONDS if self._ready else None)
            return None

    def _give_way(self) -> None:
        """If a test of another process waits, give up the ready guest that is needed last; one at each look."""
        if self._ready and monotonic() >= self._next_look:
            self._next_look = monotonic() + _LOOK_SECONDS
            if self._fleet.others_wait():
                self._to_remove.append(self._ready.pop().guest)
                self._out_of_room = True

    def _find_missing(self) -> GuestSpec | None:
        """The first expected guest that is not ready and may be started now."""
        if self.waiting_tests or self._out_of_room or len(self._ready) >= self._count:
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
                    # The error is that its hypervisor was killed.
                    return
                if isinstance(error, Cancelled):
                    # There may be room again with the next test.
                    self._out_of_room = True
                else:
                    # The test that asks for this guest will get the same error, and report it.
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
        # No test has used it, and the guardian removes it at the end of the run.
        return
