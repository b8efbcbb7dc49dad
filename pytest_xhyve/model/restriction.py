"""The images on which a test may run: ``only`` and ``skip_on`` of the marker ``xhyve``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pytest_xhyve.model.architecture import X86_64
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.values import short_repr, suggest

_KEYS = ("distro", "version", "init", "arch")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What an image states of itself; None if it does not.

    Attributes:
        name: the image's name.
        distro: the distribution, as ``ID`` of os-release(5) names it: ``debian``, ``ubuntu``, ``rocky``.
        version: its version, as ``VERSION_ID`` there: ``12``, ``22.04``, ``9.4``.
        init: the init system: ``systemd``, ``busybox`` and so on.
        arch: the CPU's architecture, as ``uname -m`` prints it.
    """

    name: str
    distro: str | None = None
    version: str | None = None
    init: str | None = None
    arch: str | None = None

    def __str__(self) -> str:
        stated = [f"{key} {value}" for key in _KEYS if (value := getattr(self, key)) is not None]
        return f"{self.name} ({', '.join(stated)})" if stated else self.name


@dataclass(frozen=True, slots=True)
class Condition:
    """What an image must state.

    Attributes:
        values: for each key of `ImageFacts`, the values of which the image states one.
    """

    values: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def parse(cls, value: Any) -> Self:
        """The condition that *value* states: a name, or a dict of keys and values.

        Raises:
            ConfigurationError: a key is unknown, or a value is not a text.
        """
        if isinstance(value, str) and value:
            return cls((("name", (value,)),))
        if not isinstance(value, Mapping) or not value:
            raise ConfigurationError(
                f'{short_repr(value)} is not an image: give a name, a dict such as {{"distro": "debian"}}, or a list '
                "of these"
            )
        for key in value:
            if key not in _KEYS:
                near = suggest(key, _KEYS) if isinstance(key, str) else ""
                raise ConfigurationError(f"an image states no {short_repr(key)}{near} (known: {', '.join(_KEYS)})")
        return cls(tuple((key, _texts(key, each)) for key, each in value.items()))

    def holds(self, facts: ImageFacts) -> bool | None:
        """Whether an image meets this; None if that depends on what it does not state."""
        answers = [_is_one_of(key, getattr(facts, key), wanted) for key, wanted in self.values]
        if False in answers:
            return False
        return None if None in answers else True

    def __str__(self) -> str:
        if self.values[0][0] == "name":
            return self.values[0][1][0]
        return " and ".join(f"{key} {' or '.join(wanted)}" for key, wanted in self.values)


@dataclass(frozen=True, slots=True)
class Restriction:
    """The images on which a test may run.

    Attributes:
        only: the test runs only on images that meet one of these conditions; None for all images.
        skip_on: the test is skipped on images that meet one of these conditions.
    """

    only: tuple[Condition, ...] | None = None
    skip_on: tuple[Condition, ...] = ()

    @classmethod
    def parse(cls, *, only: Any = None, skip_on: Any = None) -> Self:
        """A restriction as users write it: a name, a dict of what an image states, or a list of these.

        Raises:
            ConfigurationError: a value is invalid; the message names the key.
        """
        return cls(
            None if only is None else _conditions("only", only),
            () if skip_on is None else _conditions("skip_on", skip_on),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of images in the conditions."""
        every = (*(self.only or ()), *self.skip_on)
        return tuple(wanted[0] for condition in every for key, wanted in condition.values if key == "name")

    def reason_to_skip(self, facts: ImageFacts, *, is_complete: bool) -> str | None:
        """Why a test does not run on an image; None if it runs, or if that is not known yet.

        Args:
            facts: what is known of the image.
            is_complete: whether no more will be known. What an image does not state is then no reason to skip a test
                with ``skip_on``, but it is one with ``only``.
        """
        if self.only is not None:
            answers = [condition.holds(facts) for condition in self.only]
            if True not in answers and (is_complete or None not in answers):
                return f"only on {' or '.join(map(str, self.only))}, and the image is {facts}"
        for condition in self.skip_on:
            if condition.holds(facts):
                return f"not on {condition}, and the image is {facts}"
        return None


def _conditions(key: str, value: Any) -> tuple[Condition, ...]:
    try:
        if isinstance(value, list | tuple | set | frozenset) and value:
            return tuple(map(Condition.parse, value))
        return (Condition.parse(value),)
    except ConfigurationError as error:
        raise ConfigurationError(f"{key}: {error}") from error


def _texts(key: str, value: Any) -> tuple[str, ...]:
    texts = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    for text in texts:
        if not isinstance(text, str) or not text:
            raise ConfigurationError(f"{key}: {short_repr(text)} is not a text such as {key}={_EXAMPLES[key]!r}")
    if not texts:
        raise ConfigurationError(f"{key}: an empty list matches no image")
    return texts


_EXAMPLES = {"distro": "debian", "version": "12", "init": "systemd", "arch": X86_64.name}


def _is_one_of(key: str, value: str | None, wanted: tuple[str, ...]) -> bool | None:
    if value is None:
        return None
    # 9 is each of 9.0, 9.1 and so on.
    return any(value == each or (key == "version" and value.startswith(f"{each}.")) for each in wanted)
