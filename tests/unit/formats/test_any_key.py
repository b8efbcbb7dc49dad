"""What holds of any key that somebody may write: it is taken, or refused with an error of the plugin's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_xhyve.formats.private_key import find_unusable
from pytest_xhyve.formats.public_key import parse_public_key
from pytest_xhyve.images.keys import KeyPair
from pytest_xhyve.model.errors import ConfigurationError

PAIR = KeyPair.generate()


@given(st.text())
def test_any_public_key(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_public_key(text)


@given(st.integers(0, len(PAIR.public) - 1))
def test_public_key_that_is_cut_off(length: int) -> None:
    with pytest.raises(ConfigurationError):
        parse_public_key(PAIR.public[:length])


@given(st.binary())
def test_any_private_key(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "key"
    path.write_bytes(content)
    assert find_unusable(path) is not None


@given(st.integers(0, len(PAIR.private) - 40))
def test_private_key_that_is_cut_off(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "key"
    path.write_bytes(PAIR.private)
    assert find_unusable(path) is None
    path.write_bytes(PAIR.private[:length])
    assert find_unusable(path) is not None
