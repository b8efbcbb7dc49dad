"""The prewarmer, with a fleet that finishes a guest when the test decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import cast

import pytest
from waiting import becomes

from pytest_xhyve.fleet.prewarmer import Prewarmer, in_background
from pytest_xhyve.fleet.request import PrewarmRequest, Request
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.model.errors import Cancelled, XhyveError
from pytest_xhyve.model.spec import GuestSpec

A, B, C = (GuestSpec(image="tiny", cpus=cpus) for cpus in (1, 2, 3))
OTHER = GuestSpec(image="other")
SECONDS = 10.0


class Made:
    """Stands for a guest."""

    def __init__(self, fleet: Fleet, spec: GuestSpec) -> None:
        self._fleet = fleet
        self.spec = spec
        self._prewarmed = False
        self.is_dead = False

    def is_healthy(self) -> bool:
        return not self.is_dead

    def remove(self) -> None:
        self._fleet.removed.append(self)


class Order:
    """A prewarmed guest that is being started; the test decides how that ends. It is also its own process."""

    def __init__(self, spec: GuestSpec) -> None:
        self.spec = spec
        self._end: Future[None] = Future()

    def succeed(self) -> None:
        self._end.set_result(None)

    def fail(self, error: Exception) -> None:
        self._end.set_exception(error)

    def cancel(self) -> None:
        if not self._end.done():
            self._end.set_exception(XhyveError("the hypervisor was killed"))

    def wait(self) -> None:
        self._end.result(SECONDS)


class Fleet:
    """Starts a test's guest at once, and a prewarmed one when the test decides."""

    def __init__(self) -> None:
        self.free_slot: Callable[[], bool] = lambda: False
        self.orders: list[Order] = []
        self.made: list[Made] = []
        self.removed: list[Made] = []
        self.while_starting: Callable[[], None] = lambda: None
        self.is_awaited = False

    def others_wait(self) -> bool:
        return self.is_awaited

    def start(self, request: Request) -> Guest:
        spec = request.spec
        if isinstance(request, PrewarmRequest):
            assert request.requested_by is None
            order = Order(spec)
            request.started_in(cast("GuardedProcess", order))
            self.orders.append(order)
            order.wait()
        else:
            self.while_starting()
        guest = Made(self, spec)
        self.made.append(guest)
        return cast("Guest", guest)

    def order(self, number: int) -> Order:
        """Wait for the start of the prewarmed guest *number*, from 1."""
        assert becomes(lambda: len(self.orders) >= number, SECONDS), self.orders
        return self.orders[number - 1]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def prewarmer(fleet: Fleet) -> Iterator[Prewarmer]:
    """For two guests. A test has used the image, so that it may be prewarmed."""
    with closing(Prewarmer(fleet, 2)) as prewarmer:
        prewarmer.start_guest(A, "first")
        yield prewarmer
    assert not [thread for thread in threading.enumerate() if thread.name == "xhyve-prewarm"]


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """Runs calls that wait."""
    with ThreadPoolExecutor() as pool:
        yield pool


def make(fleet: Fleet, prewarmer: Prewarmer, number: int) -> None:
    """Let the start *number* succeed, and wait until its guest is ready."""
    fleet.order(number).succeed()
    assert becomes(lambda: not prewarmer.is_busy or len(fleet.orders) > number, SECONDS)


def test_test_gets_a_prewarmed_guest(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([A, B])
    make(fleet, prewarmer, 1)
    make(fleet, prewarmer, 2)
    for spec in (B, A):
        guest = cast("Made", prewarmer.start_guest(spec, "test"))
        assert guest.spec == spec
        assert guest._prewarmed
    assert len(fleet.made) == 3


def test_thread_begins_after_the_first_guest_of_a_test(fleet: Fleet) -> None:
    before = threading.active_count()
    with closing(Prewarmer(fleet, 2)) as prewarmer:
        prewarmer.expect([A, A])
        assert threading.active_count() == before
        guest = cast("Made", prewarmer.start_guest(A, "test"))
        assert not guest._prewarmed
        fleet.order(1).succeed()


def test_starts_one_at_a_time_in_order_and_no_more_than_count(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([B, A, C])
    assert fleet.order(1).spec == B
    assert len(fleet.orders) == 1
    make(fleet, prewarmer, 1)
    assert fleet.order(2).spec == A
    make(fleet, prewarmer, 2)
    assert not prewarmer.is_busy
    prewarmer.start_guest(B, "test")
    assert fleet.order(3).spec == C


def test_does_not_start_an_image_that_no_test_has_used(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([OTHER, A])
    assert fleet.order(1).spec == A


def test_waits_for_a_guest_that_is_being_started(fleet: Fleet, prewarmer: Prewarmer, aside: ThreadPoolExecutor) -> None:
    prewarmer.expect([A])
    order = fleet.order(1)
    waiting = aside.submit(prewarmer.start_guest, A, "test")
    assert becomes(lambda: prewarmer.waiting_tests == 1, SECONDS)
    order.succeed()
    assert cast("Made", waiting.result(SECONDS))._prewarmed
    assert len(fleet.made) == 2


def test_failure_is_left_to_the_test(fleet: Fleet, prewarmer: Prewarmer, aside: ThreadPoolExecutor) -> None:
    prewarmer.expect([A])
    order = fleet.order(1)
    waiting = aside.submit(prewarmer.start_guest, A, "test")
    assert becomes(lambda: prewarmer.waiting_tests == 1, SECONDS)
    order.fail(XhyveError("no"))
    assert not cast("Made", waiting.result(SECONDS))._prewarmed


def test_failed_spec_is_not_tried_again_until_a_test_has_started_it(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([A, B])
    fleet.order(1).fail(XhyveError("no"))
    assert fleet.order(2).spec == B
    prewarmer.expect([A, B])
    make(fleet, prewarmer, 2)
    assert len(fleet.orders) == 2
    prewarmer.start_guest(A, "test")
    prewarmer.expect([A, B])
    assert fleet.order(3).spec == A


def test_without_a_slot_tries_again_with_the_next_test(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([A, B])
    fleet.order(1).fail(Cancelled("no slot is free"))
    assert becomes(lambda: not prewarmer.is_busy, SECONDS)
    assert len(fleet.orders) == 1
    prewarmer.expect([A, B])
    assert fleet.order(2).spec == A


def test_guests_that_are_no_longer_expected_are_removed(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([B])
    make(fleet, prewarmer, 1)
    prewarmer.expect([A])
    assert becomes(lambda: [guest.spec for guest in fleet.removed] == [B], SECONDS)
    order = fleet.order(2)
    # The start of A is cancelled when it is no longer expected.
    prewarmer.expect([C])
    with pytest.raises(XhyveError, match="was killed"):
        order.wait()
    assert fleet.order(3).spec == C


def test_dead_guest_is_removed(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([A])
    make(fleet, prewarmer, 1)
    fleet.made[-1].is_dead = True
    guest = cast("Made", prewarmer.start_guest(A, "test"))
    assert not guest._prewarmed
    assert becomes(lambda: len(fleet.removed) == 1, SECONDS)
    assert fleet.removed[0].is_dead


def test_starts_no_guest_while_a_test_waits(fleet: Fleet, prewarmer: Prewarmer) -> None:
    seen = []

    def look() -> None:
        prewarmer.expect([A, A])
        seen.append((prewarmer.is_busy, len(fleet.orders)))

    fleet.while_starting = look
    prewarmer.start_guest(B, "test")
    assert seen == [(False, 0)]
    assert fleet.order(1).spec == A


def test_free_slot_removes_the_guest_that_is_needed_last(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([A, B])
    make(fleet, prewarmer, 1)
    make(fleet, prewarmer, 2)
    rooms = []
    fleet.while_starting = lambda: rooms.extend([fleet.free_slot(), fleet.free_slot(), fleet.free_slot()])
    prewarmer.start_guest(C, "test")
    assert rooms == [True, True, False]
    assert [guest.spec for guest in fleet.removed] == [B, A]


def test_free_slot_cancels_a_start(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([A])
    order = fleet.order(1)
    rooms = []
    fleet.while_starting = lambda: rooms.extend([fleet.free_slot(), fleet.free_slot()])
    prewarmer.start_guest(C, "test")
    assert rooms == [True, False]
    with pytest.raises(XhyveError, match="was killed"):
        order.wait()


def test_close_cancels_the_start_and_removes_ready_guests(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([A, B])
    make(fleet, prewarmer, 1)
    fleet.order(2)
    prewarmer.close()
    assert [guest.spec for guest in fleet.removed] == [A]
    assert len(fleet.made) == 2


def test_cancelled_before_it_has_a_process() -> None:
    request = PrewarmRequest(A)
    request.cancel()
    with pytest.raises(Cancelled):
        request.started_in(cast("GuardedProcess", Order(A)))


def test_in_background_is_true_on_the_prewarming_thread_only() -> None:
    answers = [in_background()]
    thread = threading.Thread(target=lambda: answers.append(in_background()), name="xhyve-prewarm")
    thread.start()
    thread.join()
    assert answers == [False, True]


def test_gives_a_guest_up_for_a_test_of_another_process(prewarmer: Prewarmer, fleet: Fleet) -> None:
    """One after the other: the first may be enough."""
    prewarmer.expect([A, B])
    for number in (1, 2):
        fleet.order(number).succeed()
        assert becomes(lambda number=number: prewarmer.count_ready() == number, SECONDS)  # type: ignore[misc]
    fleet.is_awaited = True
    assert becomes(lambda: len(fleet.removed) == 1, SECONDS)
    fleet.is_awaited = False
    assert [made.spec for made in fleet.removed] == [B]
    assert prewarmer.count_ready() == 1
    # It starts no other in its place before the next test.
    assert len(fleet.orders) == 2
