"""What a test does to a link between two guests of a LAN."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypedDict

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.values import parse_arguments, short_repr

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,6})?)"
_MOST_SECONDS = 60.0
_LEAST_BITS = 1000
_MOST_BITS = 1e20


class LinkFaults(TypedDict, total=False):
    """The faults of a link as users write them; `Impairment` describes them."""

    latency: str | float | None
    jitter: str | float | None
    loss: str | float | None
    duplicate: str | float | None
    reorder: str | float | None
    corrupt: str | float | None
    rate: str | float | None


@dataclass(frozen=True, slots=True)
class Impairment:
    """What happens to the frames from one guest to another.

    Attributes:
        latency: seconds by which each frame is late.
        jitter: seconds, at most *latency*; each frame is late by up to so much less or more. Order stays.
        loss: the share of frames that are lost, from 0 to 1.
        duplicate: the share of frames that arrive twice.
        reorder: the share of frames that are not late, and so overtake others; needs a latency.
        corrupt: the share of frames of which one bit is wrong.
        rate: bits per second; None for no limit. What waits longer than a second is lost.
    """

    latency: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    rate: float | None = None

    @classmethod
    def parse(cls, **values: Any) -> Self:
        """An impairment from values as users write them: ``latency="100ms"``, ``loss="5%"``, ``rate="1mbit"``.

        Raises:
            ConfigurationError: a key is unknown or a value is invalid; the message names the key.
        """
        found = cls(**parse_arguments(values, _PARSERS, "a link"))
        if found.jitter > found.latency:
            raise ConfigurationError(f"jitter: {found.jitter:g} s is more than the latency, {found.latency:g} s")
        if found.reorder and not found.latency:
            raise ConfigurationError("reorder: only frames that are late can be overtaken; give a latency, too")
        return found

    def to_dict(self) -> dict[str, Any]:
        """This object as plain data, for the switch."""
        return asdict(self)

    def __bool__(self) -> bool:
        """Whether there is a fault."""
        return self != Impairment()

    def __str__(self) -> str:
        shown = {"latency": _as_seconds, "jitter": _as_seconds, "rate": _as_bits}
        given = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ", ".join(f"{name} {shown.get(name, _as_percent)(value)}" for name, value in given if value)


@dataclass(frozen=True, slots=True)
class LinkState:
    """What a test has done to the way from one guest to another.

    Attributes:
        source, target: the names of the guests.
        blocked: whether no frame passes.
        impairment: what happens to frames that pass.
        seed: see `pytest_xhyve.Guests.link`.
    """

    source: str
    target: str
    blocked: bool
    impairment: Impairment
    seed: str

    def to_dict(self) -> dict[str, Any]:
        """This object as plain data, for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The object that `to_dict` or the switch has made *content* of.

        Raises:
            TypeError, ValueError, KeyError: neither has made it.
        """
        impairment = Impairment(**(content["impairment"] or {}))
        state = cls(**{**content, "impairment": impairment})
        texts = (state.source, state.target, state.seed)
        if not all(isinstance(text, str) for text in texts) or not isinstance(state.blocked, bool):
            raise ValueError("a link has a value of another type")
        numbers = [value for field in fields(impairment) if (value := getattr(impairment, field.name)) is not None]
        if not all(type(number) in (int, float) and 0 <= number < _MOST_BITS for number in numbers):
            raise ValueError("a fault of a link has an impossible value")
        return state


def parse_duration(value: str | float) -> float:
    """Seconds from ``100ms``, ``2s``, ``500us`` or a number of seconds.

    Raises:
        ConfigurationError: *value* is not a duration from 0 to 60 s.
    """
    seconds = _scaled(value, _SECONDS)
    if seconds is None or not 0 <= seconds <= _MOST_SECONDS:
        raise ConfigurationError(f"{short_repr(value)} is not a duration up to {_MOST_SECONDS:g} s; write 100ms or 1s")
    return seconds


def parse_share(value: str | float) -> float:
    """A share from 0 to 1, from ``5%`` or ``0.05``.

    Raises:
        ConfigurationError: *value* is not one.
    """
    share = _scaled(value, {"%": 0.01})
    if share is None or not 0 <= share <= 1:
        raise ConfigurationError(f"{short_repr(value)} is not a share; write 5% or 0.05")
    return share


def parse_rate(value: str | float) -> float:
    """Bits per second from ``1mbit``, ``512kbit`` or a number of bits.

    Raises:
        ConfigurationError: *value* is not a rate from 1 kbit.
    """
    bits = _scaled(value, _BITS)
    if bits is None or bits < _LEAST_BITS:
        raise ConfigurationError(f"{short_repr(value)} is not a rate from 1kbit; write 1mbit or 512kbit")
    return bits


def _scaled(value: Any, units: Mapping[str, float]) -> float | None:
    """The number *value*, or the text *value* of a number and one of *units*; None if it is neither."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else None
    match = re.fullmatch(rf"{_NUMBER}\s*({'|'.join(units)})", value, re.IGNORECASE) if isinstance(value, str) else None
    return None if match is None else float(match[1]) * units[match[2].lower()]


def _as_seconds(seconds: float) -> str:
    return f"{seconds * 1000:g} ms"


def _as_percent(share: float) -> str:
    return f"{share * 100:g} %"


def _as_bits(bits: float) -> str:
    return f"{bits / 1e6:g} Mbit/s"


_PARSERS: Mapping[str, Callable[[Any], float]] = {
    "latency": parse_duration,
    "jitter": parse_duration,
    "loss": parse_share,
    "duplicate": parse_share,
    "reorder": parse_share,
    "corrupt": parse_share,
    "rate": parse_rate,
}
