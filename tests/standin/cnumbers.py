"""Numbers as the C library of macOS reads them, whatever stands after them."""

from __future__ import annotations

import re
from collections.abc import Callable

_SPACE = r"[ \t\n\v\f\r]*"
_DECIMAL = re.compile(rf"{_SPACE}([+-]?)([0-9]+)")
_HEX = re.compile(rf"{_SPACE}([+-]?)(?:0[xX](?=[0-9a-fA-F]))?([0-9a-fA-F]+)")
# Base 0 of strtoul: a leading zero is octal.
_ANY = re.compile(rf"{_SPACE}([+-]?)(?:0[xX](?P<hex>[0-9a-fA-F]+)|(?P<octal>0[0-7]*)|(?P<decimal>[1-9][0-9]*))")
_SPACES = re.compile(_SPACE)

_ULONG_MAX = 2**64 - 1
_LONG_MAX = 2**63 - 1
# More digits than any 64 bit number has in any base; int() refuses thousands of them.
_DIGITS = 64


def atoi(text: str) -> int:
    """What atoi(3) makes of *text*: 0 where no number stands at its start."""
    found = _DECIMAL.match(text)
    return 0 if found is None else _wrapped(found)


def scan_decimals(text: str, separator: str, count: int) -> list[int]:
    """As many numbers as ``sscanf(text, "%d:%d…")`` converts, with *separator* between them and *count* at most."""
    return _scan(text, separator, count, _DECIMAL, _wrapped)


def scan_hex_field(text: str, start: int, width: int) -> tuple[int, int] | None:
    """Convert one ``%8x`` of *width* digits at *start*: the number and where it ends; None where there is none.

    Blanks before it do not count; a sign and ``0x`` do.
    """
    spaces = _SPACES.match(text, start)
    begin = spaces.end() if spaces is not None else start
    found = _HEX.match(text, begin, begin + width)
    if found is None:
        return None
    return _unsigned(found[1], found[2], 16) & ((1 << 4 * width) - 1), found.end()


def strtoul(text: str) -> tuple[int, str, bool] | None:
    """Read a number with base 0.

    Returns:
        The number, what stands after it, and whether it was too big (it is the biggest then); None where there is none.
    """
    found = _ANY.match(text)
    if found is None:
        return None
    for name, base in (("hex", 16), ("octal", 8), ("decimal", 10)):
        digits = found[name]
        if digits is not None:
            overflows = _value(digits, base) > _ULONG_MAX
            return _unsigned(found[1], digits, base), text[found.end() :], overflows
    raise AssertionError(text)


def _scan(
    text: str,
    separator: str,
    count: int,
    pattern: re.Pattern[str],
    convert: Callable[[re.Match[str]], int],
) -> list[int]:
    numbers: list[int] = []
    place = 0
    while len(numbers) < count:
        if numbers:
            if not text.startswith(separator, place):
                break
            place += len(separator)
        found = pattern.match(text, place)
        if found is None:
            break
        numbers.append(convert(found))
        place = found.end()
    return numbers


def _value(digits: str, base: int) -> int:
    digits = digits.lstrip("0")
    return _ULONG_MAX + 1 if len(digits) > _DIGITS else int(digits or "0", base)


def _unsigned(sign: str, digits: str, base: int) -> int:
    value = _value(digits, base)
    if value > _ULONG_MAX:
        return _ULONG_MAX
    return -value & _ULONG_MAX if sign == "-" else value


def _wrapped(found: re.Match[str]) -> int:
    """An int of C: too big for a long is the biggest long, of which the lower half is kept."""
    value = _value(found[2], 10)
    value = -min(value, _LONG_MAX + 1) if found[1] == "-" else min(value, _LONG_MAX)
    return (value + 2**31) % 2**32 - 2**31
