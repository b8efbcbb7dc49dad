"""OptionSource as people write them, in options, ini files, manifests and markers: sizes, counts, choices."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_xhyve.model.errors import ConfigurationError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# So many digits that no disk has more bytes; int() gives up on thousands of them.
_SIZE = r"([0-9]{1,19})\s*([KMGT]?)(?:i?B)?"
_COUNT = r"[0-9]{1,19}"
_MOST_BYTES = (1 << 63) - 1
_LEAST_MEMORY = 16 << 20
_SHOWN = 100


def parse_size(text: str | int) -> int:
    """Bytes from ``512M``, ``2G``, ``2GiB`` or a plain number of bytes; units are powers of 1024.

    Raises:
        ConfigurationError: *text* is no such size, or not more than 0.
    """
    match = None if isinstance(text, bool) else re.fullmatch(_SIZE, _digits(text).strip(), re.IGNORECASE)
    size = int(match[1]) * _UNITS[match[2].upper()] if match else 0
    if not 0 < size <= _MOST_BYTES:
        raise ConfigurationError(f"{short_repr(text)} is not a size; write 512M, 2G or a number of bytes")
    return size


def parse_memory(text: str | int) -> int:
    """Bytes of a guest's memory, as `parse_size` reads them.

    Raises:
        ConfigurationError: *text* is no size, or so small that megabytes will have been meant.
    """
    size = parse_size(text)
    if size < _LEAST_MEMORY:
        raise ConfigurationError(
            f"{short_repr(text)} is {size} bytes of memory, with which no Linux boots; write 512M or 2G"
        )
    return size


def parse_path(text: str) -> Path:
    """A path, in which ``~`` stands for a home folder, as shells leave it behind a ``=``.

    Raises:
        ConfigurationError: there is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"{short_repr(text)} begins with the home of a user who is none here") from error


def parse_positive_int(text: str | int) -> int:
    """A whole number from 1.

    Raises:
        ConfigurationError: *text* is none.
    """
    if isinstance(text, bool) or not re.fullmatch(_COUNT, _digits(text)) or int(text) < 1:
        raise ConfigurationError(f"{short_repr(text)} is not a whole number from 1")
    return int(text)


def short_repr(value: Any) -> str:
    """*value* as Python writes it, for a message: on one line, and no longer than people read."""
    try:
        text = repr(value)
    except ValueError:
        # sys.set_int_max_str_digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 20]}…{text[-15:]}"


def _digits(value: str | int) -> str:
    """The text of *value*; nothing where it has more digits than Python writes."""
    try:
        return str(value)
    except ValueError:
        return ""


def parse_non_negative_int(text: str) -> int:
    """A whole number from 0.

    Raises:
        ConfigurationError: *text* is none.
    """
    if not re.fullmatch(_COUNT, text):
        raise ConfigurationError(f"{text!r} is not a whole number from 0")
    return int(text)


def parse_positive_float(text: str | float) -> float:
    """A number above 0.

    Raises:
        ConfigurationError: *text* is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ConfigurationError(f"{text!r} is not a number above 0")
    return number


def parse_bool(text: str | bool) -> bool:
    """Whether something is on: True, or a word as an ini file has it.

    Raises:
        ConfigurationError: *text* is no such word.
    """
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    on = words.get(str(text).strip().lower())
    if on is None:
        raise ConfigurationError(f"{text!r} is neither true nor false")
    return on


def parse_choice(*choices: str) -> Callable[[str], str]:
    """A parser that takes one of *choices* and raises `ConfigurationError` at anything else."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ConfigurationError(f"{short_repr(text)} is none of {', '.join(choices)}{suggest(str(text), choices)}")
        return text

    return parse


def suggest(word: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """A hint at what may have been meant, or nothing."""
    import difflib

    close = difflib.get_close_matches(word, known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
