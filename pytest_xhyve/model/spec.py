"""What a guest shall be made of, as a test, a marker or a factory asks for it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.values import parse_choice, parse_memory, parse_positive_int, short_repr, suggest

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """What a guest shall be made of; None leaves it to the options, and these to the image.

    Attributes:
        image: a name, a path or an image.
        name: the guest's, and its host name: letters, digits and dashes (RFC 1123); generated where it is None.
        cpus: virtual CPUs.
        memory: bytes.
        start: ``cold`` to boot it, ``warm`` to restore it from a template, ``auto`` for what can be had.
        reset: whether each test shall get a shared guest in the state that the fixtures left.
    """

    image: str | os.PathLike[str] | Image | None = None
    name: str | None = None
    cpus: int | None = None
    memory: int | None = None
    start: str | None = None
    reset: bool | None = None

    @classmethod
    def parse(cls, **keys: Any) -> GuestSpec:
        """A spec from what a test wrote: sizes as ``512M`` too.

        Raises:
            ConfigurationError: an unknown key, or an invalid value; the message names the key.
        """
        parsers: dict[str, Callable[[Any], Any]] = {
            "image": _parse_image,
            "name": _parse_name,
            "cpus": parse_positive_int,
            "memory": parse_memory,
            "start": parse_choice("auto", "cold", "warm"),
            "reset": _parse_flag,
        }
        values = {}
        for key, value in keys.items():
            if key not in parsers:
                raise ConfigurationError(f"a guest has no {key!r}{suggest(key, parsers)} (known: {', '.join(parsers)})")
            try:
                values[key] = None if value is None else parsers[key](value)
            except ConfigurationError as error:
                raise ConfigurationError(f"{key}: {error}") from error
        return cls(**values)

    def with_defaults(self, other: GuestSpec) -> GuestSpec:
        """This spec, with what it leaves open taken from *other*."""
        given = {key: value for key in self.__slots__ if (value := getattr(self, key)) is not None}
        return replace(other, **given)


def _parse_name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ConfigurationError(f"{short_repr(value)} is no host name: letters, digits and dashes, 63 at most")
    return value


def _parse_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{short_repr(value)} is neither True nor False")
    return value


def _parse_image(value: Any) -> str | os.PathLike[str] | Image:
    if not isinstance(value, str | os.PathLike | Image) or not str(value):
        raise ConfigurationError(f"{short_repr(value)} is no image: a name or a path")
    return value
