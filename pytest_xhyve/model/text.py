"""Text of a guest, for people. A guest is not trusted: its bytes may be commands for the user's terminal."""

from __future__ import annotations

import re

# Control characters apart from tab and newline; those that reorder a line, or annotate it; those that end one; tags,
# which do not show; and surrogates, by which bytes that are not UTF-8 are decoded. These cannot be printed, or sent to
# an xdist controller.
_HARMFUL = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb"
    r"\U000e0000-\U000e007f"
)
_MOST_DIGITS = 18
_COLOUR = r"\x1b\[[0-9;]{0,40}m"
_ANY = re.compile(f"[{_HARMFUL}]")
_ANY_BUT_COLOURS = re.compile(f"({_COLOUR})|[{_HARMFUL}]")
# Commands that a CI system takes out of a job's output: GitHub Actions (::NAME::, or ##[NAME]), Azure Pipelines
# (##vso[NAME]), TeamCity (##teamcity[NAME]). They set variables of later steps, upload files, or hide the rest.
_COMMAND = re.compile(r"^(?P<blank>[^\S\n]*):(?=:)|#(?=#(?:vso|teamcity)?\[)", re.MULTILINE | re.IGNORECASE)


def printable(text: str) -> str:
    r"""*text* with each character that could harm a terminal written as ``\x1b``, ``\u202e`` or ``\udce9``.

    The first character of a command that a CI system would take out of its log is written so, too.
    """
    # A serial port ends its lines this way.
    return _disarm(_ANY.sub(_escape, text.replace("\r\n", "\n")))


def printable_but_coloured(text: str) -> str:
    """Like `printable`, but keep the escape sequences that select a colour: they only change the looks."""
    return _disarm(_ANY_BUT_COLOURS.sub(lambda match: match[1] or _escape(match), text.replace("\r\n", "\n")))


def is_number(text: str) -> bool:
    """Whether *text*, which a guest or a disk has, is a whole number of at most 18 digits.

    `str.isdecimal` and `str.isdigit` also take digits of other scripts, ``²``, and more digits than int() takes.
    """
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


def _disarm(text: str) -> str:
    return _COMMAND.sub(lambda match: r"\x23" if match[0] == "#" else f"{match['blank']}\\x3a", text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
