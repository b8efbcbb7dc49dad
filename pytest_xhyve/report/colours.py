"""The colours of a terminal's text, for a page (ECMA-48, section 8.3.117: SELECT GRAPHIC RENDITION)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pytest_xhyve.model.text import printable

_COLOUR = re.compile(r"\x1b\[([0-9;]{0,40})m")
# Other sequences move the cursor, clear the screen or set the window's title. None of it has a meaning on a page.
_OTHER = re.compile(
    r"\x1b(?:\[[0-?]{0,40}[ -/]{0,4}[@-~]|\][^\x07\x1b]{0,500}(?:\x07|\x1b\\)|[ -/][0-~]|[0-Z\\^-~])|\r(?!\n)|\x0f"
)
_BOLD, _UNDERLINE = 1, 4
_NORMAL, _BRIGHT = 30, 90
_EXTENDED, _OF_256, _OF_RGB = (38, 48), 5, 2
_RGB_VALUES = 3


def coloured(text: str) -> Iterator[tuple[str, str]]:
    """The pieces of *text*, each with the names of its classes on the page, which may be empty.

    The classes are ``c0`` to ``c15`` for the colours of a terminal, ``bold`` and ``underline``. Colours of the
    background are left out, so that the text can always be read.
    """
    colour: int | None = None
    styles: set[str] = set()
    # Odd pieces are the parameters of a sequence.
    for number, piece in enumerate(_COLOUR.split(text)):
        if number % 2:
            colour = _apply(piece, colour, styles)
        elif shown := printable(_OTHER.sub("", piece)):
            yield " ".join([*([] if colour is None else [f"c{colour}"]), *sorted(styles)]), shown


def _apply(parameters: str, colour: int | None, styles: set[str]) -> int | None:
    """Change *styles* as *parameters* state, and return the colour from now on."""
    values = [int(value or 0) for value in parameters.split(";")]
    while values:
        value = values.pop(0)
        if value in _EXTENDED:
            kind = values.pop(0) if values else 0
            taken = [values.pop(0) for _ in range({_OF_256: 1, _OF_RGB: _RGB_VALUES}.get(kind, 0)) if values]
            if value == _EXTENDED[0]:
                colour = taken[0] if kind == _OF_256 and taken and taken[0] < 16 else None
        elif value in (0, 39):
            colour = None
            if value == 0:
                styles.clear()
        elif _NORMAL <= value < _NORMAL + 8:
            colour = value - _NORMAL
        elif _BRIGHT <= value < _BRIGHT + 8:
            colour = value - _BRIGHT + 8
        elif value in (_BOLD, _UNDERLINE):
            styles.add("bold" if value == _BOLD else "underline")
        elif value in (22, 24):
            styles.discard("bold" if value == 22 else "underline")
    return colour
