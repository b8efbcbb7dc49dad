"""A host that refuses to connect to its guest is named in seconds."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from pytest_xhyve.hypervisors.reachability import Reachability, explain
from pytest_xhyve.model.errors import BootFailed

ADDRESS = "192.168.64.2"


class Times:
    """A clock that a test sets, and answers to connections that it gives."""

    def __init__(self, *answers: int) -> None:
        self.now = 100.0
        self.asked = 0
        self._answers: Iterator[int] = iter(answers)

    def connect(self, address: str) -> int:
        assert address == ADDRESS
        self.asked += 1
        return next(self._answers)

    def check_for(self, seconds: float) -> None:
        reachability = Reachability("g", self.connect, lambda: self.now)
        end = self.now + seconds
        while self.now < end:
            reachability.check(ADDRESS)
            self.now += 0.1


def test_no_route_for_seconds_is_an_error() -> None:
    times = Times(*[errno.EHOSTUNREACH] * 100)
    with pytest.raises(BootFailed, match=r"got the address 192\.168\.64\.2"):
        times.check_for(60)
    assert 105 <= times.now < 106


@pytest.mark.parametrize("answer", [0, errno.ECONNREFUSED])
def test_guest_that_was_reached_is_not_asked_again(answer: int) -> None:
    times = Times(errno.EHOSTUNREACH, answer)
    times.check_for(30)
    assert times.asked == 2


def test_guest_that_does_not_answer_yet_is_booting() -> None:
    answers = [errno.EHOSTUNREACH] * 5 + [errno.EAGAIN] + [errno.EHOSTUNREACH] * 5 + [errno.ETIMEDOUT] * 5
    times = Times(*answers)
    times.check_for(8)
    assert times.asked > 11


def test_fix_depends_on_the_user() -> None:
    user, root = (explain("g", ADDRESS, is_root=is_root) for is_root in (False, True))
    assert "Privacy & Security > Local Network" in user
    assert "Local Network" not in root
    assert "route -n get 192.168.64.2" in user
    assert "route -n get 192.168.64.2" in root
