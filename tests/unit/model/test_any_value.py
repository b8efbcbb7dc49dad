"""What holds of any value that somebody may write: it is taken, or refused with an error of the plugin's."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from strategies import KEYS, anything, examples

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.values import format_size, parse_path, parse_positive_int, parse_size, short_repr, suggest


@given(anything)
def test_any_size(value: Any) -> None:
    try:
        assert 0 < parse_size(value) < 1 << 63
    except ConfigurationError as error:
        assert str(error).startswith(short_repr(value))


@given(st.integers(0, 1 << 50))
def test_shown_size_is_near(size: int) -> None:
    text = format_size(size)
    match = re.fullmatch(r"(\d+)(?:\.(\d))? (B|KiB|MiB|GiB)", text)
    assert match is not None
    unit = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[match[3]]
    last_digit = unit if match[2] is None else unit / 10
    assert abs((int(match[1]) + int(match[2] or 0) / 10) * unit - size) <= last_digit / 2 + 1
    assert len(text) <= len("1048576.0 GiB")


@given(anything)
@example(10**5000)
@example("9" * 5000)
@example("٣")
def test_any_count(value: Any) -> None:
    try:
        assert parse_positive_int(value) >= 1
    except ConfigurationError as error:
        assert str(error).startswith(short_repr(value))


@given(st.text() | st.text("~/ab\0", max_size=10))
@example("~no-such-user/x")
@example("~\0/x")
def test_any_path(text: str) -> None:
    try:
        path = str(parse_path(text))
        assert not path.startswith("~")
        assert "\0" not in path
    except ConfigurationError as error:
        assert str(error).startswith(short_repr(text))


@given(st.text() | st.text("abcXYZ019-_.", max_size=70))
def test_any_name_of_a_guest(name: str) -> None:
    try:
        spec = GuestSpec.parse(name=name)
    except ConfigurationError as error:
        assert str(error).startswith("name: ")
    else:
        assert spec.name is not None
        # RFC 1123, section 2.1
        assert re.fullmatch(r"(?!-)[a-zA-Z0-9-]{1,63}(?<!-)", spec.name)


@examples(30)
@given(st.dictionaries(st.text(), anything, max_size=3))
def test_any_keys_of_a_guest(keys: dict[str, Any]) -> None:
    try:
        GuestSpec.parse(**keys)
    except ConfigurationError as error:
        assert any(key in str(error) or repr(key) in str(error) for key in keys)


@given(st.text(), st.lists(st.text(min_size=1)))
def test_nearest_names_are_known_ones(word: str, known: list[str]) -> None:
    hint = suggest(word, tuple(known))
    assert hint == "" or any(name in hint for name in known)


@given(st.sampled_from(KEYS), st.data())
def test_a_slip_of_the_finger_is_understood(key: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(key) - 1))
    assert key in suggest(key[:at] + "x" + key[at:], KEYS)
