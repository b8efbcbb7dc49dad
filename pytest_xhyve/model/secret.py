"""A text that must not be shown: a password."""

from __future__ import annotations


class Secret:
    """A text that appears in no message, log or report, as no conversion to text shows it; `reveal` returns it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret cannot be saved")

    def reveal(self) -> str:
        """The text. Pass it on, and keep it in no variable: a traceback may show variables."""
        return self._text
