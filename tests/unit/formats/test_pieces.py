from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_xhyve.formats.pieces import Pieces


@given(st.lists(st.binary(max_size=5)), st.integers(1, 7))
def test_each_read_is_whole_but_the_last(pieces: list[bytes], size: int) -> None:
    file = Pieces(iter(pieces))
    content = b"".join(pieces)
    for begin in range(0, len(content), size):
        assert file.read(size) == content[begin : begin + size]
    assert file.read(size) == b""
    assert Pieces(iter(pieces)).read() == content
