"""A console's colours on a page, and that no other control of a terminal gets there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_xhyve.report.colours import coloured

ESC = "\x1b"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("plain", [("", "plain")]),
        ("", []),
        (f"{ESC}[31mred{ESC}[0m end", [("c1", "red"), ("", " end")]),
        (f"[ {ESC}[0;32m  OK  {ESC}[0m ] x", [("", "[ "), ("c2", "  OK  "), ("", " ] x")]),
        (f"{ESC}[1;4;93mx{ESC}[22;39my{ESC}[my", [("c11 bold underline", "x"), ("underline", "y"), ("", "y")]),
        (f"{ESC}[38;5;4mx{ESC}[38;5;200my{ESC}[38;2;31;1;4mz", [("c4", "x"), ("", "y"), ("", "z")]),
        (f"{ESC}[48;5;31mx{ESC}[41;32my{ESC}[38mz{ESC}[38;5mz", [("", "x"), ("c2", "y"), ("", "z"), ("", "z")]),
        (f"{ESC}[2J{ESC}[10;20Ha{ESC}]0;title\x07b{ESC}(Bc{ESC}7d\re\r\nf", [("", "abcde\nf")]),
        ("\x00\x9b\u202e", [("", r"\x00\x9b\u202e")]),
        (ESC, [("", r"\x1b")]),
    ],
)
def test_pieces(text: str, pieces: list[tuple[str, str]]) -> None:
    assert list(coloured(text)) == pieces


@given(st.text(alphabet=st.sampled_from(f"{ESC}[]0123456789;mHJ\x07\\ <>ab\r\n\x9b"), max_size=60))
def test_any_console(text: str) -> None:
    for style, piece in coloured(text):
        assert not set(piece) & {ESC, "\x07", "\r", "\x9b"}
        assert all(name in ("bold", "underline") or (name[0] == "c" and int(name[1:]) < 16) for name in style.split())
