"""Guests get names from images of any name."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from strategies import lines

from pytest_xhyve.fleet.fleet import _to_host_name
from pytest_xhyve.model.settings import MAX_GUESTS
from pytest_xhyve.model.spec import GuestSpec


@given(st.text() | lines, st.integers(0, MAX_GUESTS - 1))
def test_any_name_of_an_image_gives_guests_a_name(image: str, slot: int) -> None:
    name = f"{_to_host_name(image)}-{slot}"
    assert GuestSpec.parse(name=name).name == name
