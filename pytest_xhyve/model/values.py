"""Parsing and formatting of the values in options, ini files, manifests and markers: sizes, numbers, choices."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pytest_xhyve.model.errors import ConfigurationError

StartMode = Literal["auto", "cold", "warm"]
"""How one guest starts: ``cold`` boots it, ``warm`` restores it, ``auto`` restores it if possible."""

RunStartMode = Literal["auto", "cold", "warm", "both"]
"""The same for all guests of a run; ``both`` runs each test on either."""

HypervisorName = Literal["auto", "vfkit", "xhyve", "hyperkit", "qemu"]
"""The program that runs guests; ``auto`` takes the first one that works."""

Acceleration = Literal["auto", "kvm", "hvf", "tcg"]
"""What QEMU runs the guest's CPU by; ``tcg`` emulates it."""

KeepMode = Literal["never", "on-failure", "always"]
"""Which guests stay after the run."""

Network = Literal["nat", "isolated", "none"]
"""What a guest can reach beside its test: all that the host can, what the test exposes to it, or nothing."""

Firmware = Literal["bios", "uefi"]
"""What boots a guest by the boot loader of its disk."""

PortProtocol = Literal["tcp", "udp"]
"""How programs reach a port."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# Enough digits for the size of any disk. int() refuses numbers with thousands of digits.
_SIZE = r"([0-9]{1,19})\s*([KMGT]?)(?:i?B)?"
_COUNT = r"[0-9]{1,19}"
_MAX_BYTES = (1 << 63) - 1
_MIN_MEMORY = 16 << 20
_SECTOR = 512
_MIN_DISK, _MAX_DISK = 1 << 20, 16 << 40
_SHOWN = 100


def parse_size(text: str | int) -> int:
    """Bytes from ``512M``, ``2G``, ``2GiB`` or a plain number of bytes; units are powers of 1024.

    Raises:
        ConfigurationError: *text* is not a size, or is 0.
    """
    match = None if isinstance(text, bool) else re.fullmatch(_SIZE, _digits(text).strip(), re.IGNORECASE)
    size = int(match[1]) * _UNITS[match[2].upper()] if match else 0
    if not 0 < size <= _MAX_BYTES:
        raise ConfigurationError(f"{short_repr(text)} is not a size; write 512M, 2G or a number of bytes")
    return size


def parse_memory(text: str | int) -> int:
    """Bytes of a guest's memory, as `parse_size` reads them.

    Raises:
        ConfigurationError: *text* is not a size, or is too small; the user has probably meant megabytes.
    """
    size = parse_size(text)
    if size < _MIN_MEMORY:
        raise ConfigurationError(
            f"{short_repr(text)} is {size} bytes of memory, too few to boot Linux; write 512M or 2G"
        )
    return size


def parse_disk_size(text: str | int) -> int:
    """Bytes of a guest's disk, as `parse_size` reads them.

    Raises:
        ConfigurationError: *text* is not a size from 1 MiB to 16 TiB, or not a multiple of 512 bytes.
    """
    size = parse_size(text)
    if not _MIN_DISK <= size <= _MAX_DISK:
        raise ConfigurationError(f"{short_repr(text)} is {size} bytes; a disk has from 1M to 16T")
    if size % _SECTOR:
        raise ConfigurationError(f"{short_repr(text)} is {size} bytes, which is not a multiple of {_SECTOR}")
    return size


def parse_path(text: str) -> Path:
    """The path *text*, with ``~`` and ``~USER`` expanded, because shells do not expand them after a ``=``.

    Raises:
        ConfigurationError: this host has no such user, or *text* contains a NUL character.
    """
    if "\0" in text:
        raise ConfigurationError(f"{short_repr(text)} not found: no path can contain a NUL character")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"{short_repr(text)} starts with the home folder of an unknown user") from error


def parse_mirror(text: str) -> tuple[str, str]:
    """The beginning of an address, and what stands in its place, from ``https://a/=https://b/``.

    Raises:
        ConfigurationError: *text* is not a pair of addresses.
    """
    match = re.fullmatch(r"(\w+://[^=\s]+)=((?:https?|file)://\S+)", text.strip())
    if match is None:
        raise ConfigurationError(
            f"{short_repr(text)} is not a mirror; write https://cloud.debian.org/=https://mirror.example/debian/"
        )
    return match[1], match[2]


def parse_port(value: int) -> int:
    """A port of TCP or UDP.

    Raises:
        ConfigurationError: *value* is not a number from 1 to 65535.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 16:
        raise ConfigurationError(f"{short_repr(value)} is not a port; give a number from 1 to 65535")
    return value


def parse_positive_int(text: str | int) -> int:
    """A whole number from 1.

    Raises:
        ConfigurationError: *text* is not one.
    """
    if isinstance(text, bool) or not re.fullmatch(_COUNT, _digits(text)) or int(text) < 1:
        raise ConfigurationError(f"{short_repr(text)} is not a whole number from 1")
    return int(text)


def short_repr(value: Any) -> str:
    """The `repr` of *value* for a message: one line, shortened if it is long."""
    try:
        text = repr(value)
    except ValueError:
        # sys.set_int_max_str_digits
        return "a number with thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 20]}…{text[-15:]}"


def _digits(value: str | int) -> str:
    """*value* as text; empty if it has more digits than Python converts."""
    try:
        return str(value)
    except ValueError:
        return ""


def parse_non_negative_int(text: str) -> int:
    """A whole number from 0.

    Raises:
        ConfigurationError: *text* is not one.
    """
    if not re.fullmatch(_COUNT, text):
        raise ConfigurationError(f"{text!r} is not a whole number from 0")
    return int(text)


def parse_positive_float(text: str | float) -> float:
    """A finite number above 0.

    Raises:
        ConfigurationError: *text* is not one.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ConfigurationError(f"{text!r} is not a number above 0")
    return number


class FailuresLimit(NamedTuple):
    """How many bundles of failed tests there may be, and how many bytes they may take together."""

    number: int
    size: int


def parse_failures_limit(text: str) -> FailuresLimit:
    """A limit such as ``20`` or ``20,4G``; without a size, `FAILURES_LIMIT` has it.

    Raises:
        ConfigurationError: *text* is not one.
    """
    number, comma, size = text.partition(",")
    return FailuresLimit(parse_positive_int(number.strip()), parse_size(size) if comma else FAILURES_LIMIT.size)


FAILURES_LIMIT = FailuresLimit(20, 4 << 30)
"""The default."""


def parse_bool(text: str | bool) -> bool:
    """A boolean from a bool or from the text of an ini value: true, yes, on, 1, false, no, off or 0.

    Raises:
        ConfigurationError: *text* is not one of these.
    """
    values = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    value = values.get(str(text).strip().lower())
    if value is None:
        raise ConfigurationError(f"{text!r} is not true or false")
    return value


def parse_choice(*choices: str) -> Callable[[str], str]:
    """A parser that accepts one of *choices* and raises `ConfigurationError` for any other text."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ConfigurationError(
                f"{short_repr(text)} is not one of {', '.join(choices)}{suggest(str(text), choices)}"
            )
        return text

    return parse


def parse_user(text: str) -> str:
    r"""The name of a user to log in as.

    It goes into configuration files of OpenSSH, where a line break would begin another setting, such as one that runs a
    program of this host. Names of a directory, as ``DOMAIN\name`` and ``name@domain``, are names, too.

    Raises:
        ConfigurationError: *text* is not one.
    """
    if not re.fullmatch(r"[\w.][\w.@+\\-]{0,254}\$?", text):
        raise ConfigurationError(f"{short_repr(text)} is not the name of a user")
    return text


def suggest(word: str, known: Collection[str]) -> str:
    """The end of a message that suggests names similar to *word*; empty if there are none."""
    # Only messages of errors need it.
    import difflib  # noqa: PLC0415

    close = difflib.get_close_matches(word, known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def parse_keys(content: Mapping[Any, Any], parsers: Mapping[str, Callable[[Any], Any]], where: str) -> dict[str, Any]:
    """The values of *content*, each as the parser of its key returns it.

    Args:
        content: keys and values, as a user wrote them.
        parsers: the known keys, and what checks and converts the value of each; they raise `ConfigurationError`.
        where: the file or the name that messages begin with.

    Raises:
        ConfigurationError: a key is unknown, or a value is invalid; the message names *where* and the key.
    """
    values = {}
    for key, value in content.items():
        if key not in parsers:
            near = suggest(key, parsers) if isinstance(key, str) else ""
            raise ConfigurationError(f"{where}: unknown key {short_repr(key)}{near} (keys: {', '.join(parsers)})")
        values[key] = _parse_value(parsers[key], value, f"{where}: {key}")
    return values


def parse_arguments(
    arguments: Mapping[str, Any], parsers: Mapping[str, Callable[[Any], Any]], what: str
) -> dict[str, Any]:
    """The values of *arguments*, each as the parser of its key returns it; those that are None are left out.

    Args:
        arguments: keys and values, as a test wrote them in Python.
        parsers: the known keys, as for `parse_keys`.
        what: what they describe, for messages.

    Raises:
        ConfigurationError: a key is unknown, or a value is invalid; the message names the key.
    """
    values = {}
    for key, value in arguments.items():
        if key not in parsers:
            raise ConfigurationError(f"{what} has no {key!r}{suggest(key, parsers)} (known: {', '.join(parsers)})")
        if value is not None:
            values[key] = _parse_value(parsers[key], value, key)
    return values


def _parse_value(parser: Callable[[Any], Any], value: Any, where: str) -> Any:
    try:
        return parser(value)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error


def format_size(size: int) -> str:
    """*size* in bytes as ``12 KiB``, ``256 MiB`` or ``1.5 GiB``."""
    if size < 1 << 10:
        return f"{size} B"
    if size < 1 << 20:
        return f"{size / (1 << 10):.0f} KiB"
    unit, bits = ("MiB", 20) if size < 1 << 30 else ("GiB", 30)
    return f"{f'{size / (1 << bits):.1f}'.removesuffix('.0')} {unit}"


def format_seconds(seconds: float) -> str:
    """*seconds* with at most three digits if possible, as ``12 ms``, ``0.13 s`` or ``12.3 s``."""
    # What would be rounded to 100 ms or to 10.00 s is shown in the next larger format.
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    return f"{seconds:.1f} s" if seconds < 99.95 else f"{seconds:.0f} s"
