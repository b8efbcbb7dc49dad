"""What makes guests ahead, with a fleet whose guests are made when the test says so."""

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
    """A guest that is being made ahead, until the test says how that ends; it is also its own process."""

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
    """Makes guests at once for those who wait, and as the test says for nobody."""

    def __init__(self) -> None:
        self.make_room: Callable[[], bool] = lambda: False
        self.orders: list[Order] = []
        self.made: list[Made] = []
        self.removed: list[Made] = []
        self.while_starting: Callable[[], None] = lambda: None

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
        """What was begun ahead as *number*, from 1, once it is."""
        assert becomes(lambda: len(self.orders) >= number, SECONDS), self.orders
        return self.orders[number - 1]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def prewarmer(fleet: Fleet) -> Iterator[Prewarmer]:
    """For two guests, with a first one started, so that it knows the image."""
    with closing(Prewarmer(fleet, 2)) as prewarmer:
        prewarmer.start_guest(A, "first")
        yield prewarmer
    assert not [thread for thread in threading.enumerate() if thread.name == "xhyve-prewarm"]


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """Runs what waits."""
    with ThreadPoolExecutor() as pool:
        yield pool


def make(fleet: Fleet, prewarmer: Prewarmer, number: int) -> None:
    """Have the order *number* end well, and wait until its guest is ready."""
    fleet.order(number).succeed()
    assert becomes(lambda: not prewarmer.is_busy or len(fleet.orders) > number, SECONDS)


def test_hands_over_what_was_made_ahead(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([A, B])
    make(fleet, prewarmer, 1)
    make(fleet, prewarmer, 2)
    for spec in (B, A):
        guest = cast("Made", prewarmer.start_guest(spec, "test"))
        assert guest.spec == spec
        assert guest._prewarmed
    assert len(fleet.made) == 3


def test_thread_starts_with_the_first_guest_that_a_test_got(fleet: Fleet) -> None:
    before = threading.active_count()
    with closing(Prewarmer(fleet, 2)) as prewarmer:
        prewarmer.expect([A, A])
        assert threading.active_count() == before
        guest = cast("Made", prewarmer.start_guest(A, "test"))
        assert not guest._prewarmed
        fleet.order(1).succeed()


def test_one_at_a_time_in_order_and_no_more_than_asked_for(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([B, A, C])
    assert fleet.order(1).spec == B
    assert len(fleet.orders) == 1
    make(fleet, prewarmer, 1)
    assert fleet.order(2).spec == A
    make(fleet, prewarmer, 2)
    assert not prewarmer.is_busy
    prewarmer.start_guest(B, "test")
    assert fleet.order(3).spec == C


def test_images_that_no_test_has_had_are_left_to_it(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([OTHER, A])
    assert fleet.order(1).spec == A


def test_what_is_being_made_is_waited_for(fleet: Fleet, prewarmer: Prewarmer, aside: ThreadPoolExecutor) -> None:
    prewarmer.expect([A])
    order = fleet.order(1)
    waiting = aside.submit(prewarmer.start_guest, A, "test")
    assert becomes(lambda: prewarmer.waiting == 1, SECONDS)
    order.succeed()
    assert cast("Made", waiting.result(SECONDS))._prewarmed
    assert len(fleet.made) == 2


def test_failure_is_left_to_the_test(fleet: Fleet, prewarmer: Prewarmer, aside: ThreadPoolExecutor) -> None:
    prewarmer.expect([A])
    order = fleet.order(1)
    waiting = aside.submit(prewarmer.start_guest, A, "test")
    assert becomes(lambda: prewarmer.waiting == 1, SECONDS)
    order.fail(XhyveError("no"))
    assert not cast("Made", waiting.result(SECONDS))._prewarmed


def test_what_failed_is_not_tried_again_before_a_test_had_it(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([A, B])
    fleet.order(1).fail(XhyveError("no"))
    assert fleet.order(2).spec == B
    prewarmer.expect([A, B])
    make(fleet, prewarmer, 2)
    assert len(fleet.orders) == 2
    prewarmer.start_guest(A, "test")
    prewarmer.expect([A, B])
    assert fleet.order(3).spec == A


def test_what_cannot_be_had_now_is_tried_with_the_next_test(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([A, B])
    fleet.order(1).fail(Cancelled("no slot is free"))
    assert becomes(lambda: not prewarmer.is_busy, SECONDS)
    assert len(fleet.orders) == 1
    prewarmer.expect([A, B])
    assert fleet.order(2).spec == A


def test_wrong_guesses_vanish(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([B])
    make(fleet, prewarmer, 1)
    prewarmer.expect([A])
    assert becomes(lambda: [guest.spec for guest in fleet.removed] == [B], SECONDS)
    order = fleet.order(2)
    # A being made is ended when nobody wants it any more.
    prewarmer.expect([C])
    with pytest.raises(XhyveError, match="was killed"):
        order.wait()
    assert fleet.order(3).spec == C


def test_dead_guest_is_thrown_away(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([A])
    make(fleet, prewarmer, 1)
    fleet.made[-1].is_dead = True
    guest = cast("Made", prewarmer.start_guest(A, "test"))
    assert not guest._prewarmed
    assert becomes(lambda: len(fleet.removed) == 1, SECONDS)
    assert fleet.removed[0].is_dead


def test_none_is_begun_while_a_test_waits(fleet: Fleet, prewarmer: Prewarmer) -> None:
    seen = []

    def look() -> None:
        prewarmer.expect([A, A])
        seen.append((prewarmer.is_busy, len(fleet.orders)))

    fleet.while_starting = look
    prewarmer.start_guest(B, "test")
    assert seen == [(False, 0)]
    assert fleet.order(1).spec == A


def test_room_is_made_of_what_is_asked_for_last(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([A, B])
    make(fleet, prewarmer, 1)
    make(fleet, prewarmer, 2)
    rooms = []
    fleet.while_starting = lambda: rooms.extend([fleet.make_room(), fleet.make_room(), fleet.make_room()])
    prewarmer.start_guest(C, "test")
    assert rooms == [True, True, False]
    assert [guest.spec for guest in fleet.removed] == [B, A]


def test_room_is_made_of_what_is_being_made(fleet: Fleet, prewarmer: Prewarmer) -> None:
    prewarmer.expect([A])
    order = fleet.order(1)
    rooms = []
    fleet.while_starting = lambda: rooms.extend([fleet.make_room(), fleet.make_room()])
    prewarmer.start_guest(C, "test")
    assert rooms == [True, False]
    with pytest.raises(XhyveError, match="was killed"):
        order.wait()


def test_close_ends_what_is_being_made_and_removes_what_is_ready(fleet: Fleet, prewarmer: Prewarmer) -> None:
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


def test_background_is_known_by_its_thread() -> None:
    answers = [in_background()]
    thread = threading.Thread(target=lambda: answers.append(in_background()), name="xhyve-prewarm")
    thread.start()
    thread.join()
    assert answers == [False, True]
