"""Guests that a run has kept."""

from __future__ import annotations

from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import GuestRecord, live_guests


def kept_guests() -> list[GuestRecord]:
    return [guest for guest in live_guests(Home.of_user().folder("runs")) if guest.kept]
