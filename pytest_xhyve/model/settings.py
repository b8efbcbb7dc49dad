"""Options, environment variables and ini values, merged into one frozen `Settings`.

What an option is called and where it can be set is in `options`; here is what its text means. The defaults are those
of `Settings`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.options import OPTIONS, PASSWORD_VARIABLE, OptionSource, find_texts
from pytest_xhyve.model.secret import Secret
from pytest_xhyve.model.values import (
    FAILURES_LIMIT,
    Acceleration,
    FailuresLimit,
    HypervisorName,
    KeepMode,
    Network,
    RunStartMode,
    parse_bool,
    parse_choice,
    parse_failures_limit,
    parse_memory,
    parse_mirror,
    parse_non_negative_int,
    parse_path,
    parse_positive_float,
    parse_positive_int,
    parse_size,
    parse_user,
)

MAX_GUESTS = 200
"""The highest limit of guests; no host has memory for more. A hypervisor may have a lower limit."""

EMULATION_FACTOR = 4.0
"""The factor by which the plugin multiplies timeouts when the hypervisor emulates the CPU."""


def _max_guests(text: str) -> int:
    number = parse_positive_int(text)
    if number > MAX_GUESTS:
        raise ConfigurationError(f"{text!r} is more than {MAX_GUESTS}, the highest possible limit")
    return number


PARSERS: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {
        "image": str,
        "recipes": parse_path,
        "distributions": parse_path,
        "mirror": parse_mirror,
        "offline": parse_bool,
        "user": parse_user,
        "key": parse_path,
        "seed": parse_path,
        "hypervisor": parse_choice(*get_args(HypervisorName)),
        "executable": str,
        "accel": parse_choice(*get_args(Acceleration)),
        "start": parse_choice(*get_args(RunStartMode)),
        "cpus": parse_positive_int,
        "memory": parse_memory,
        "network": parse_choice(*get_args(Network)),
        "max_guests": _max_guests,
        "prewarm": parse_non_negative_int,
        "templates_size": parse_size,
        "keep": parse_choice(*get_args(KeepMode)),
        "save_failures": parse_path,
        "save_failures_with_images": parse_bool,
        "failures_limit": parse_failures_limit,
        "report": parse_path,
        "artifacts": parse_path,
        "strict": parse_bool,
        "boot_timeout": parse_positive_float,
        "timeout_factor": parse_positive_float,
    }
)
"""What turns the text of an option into its value, by the option's name; raises `ConfigurationError`."""


class Settings(NamedTuple):
    """The values of all options, merged from all sources.

    It is a tuple, as `Option` is: a dataclass with so many fields takes a millisecond longer to create.

    Attributes:
        images: names or paths, at least one.
        recipes: the folders with recipes of the project.
        distributions: the project's list of addresses, or None.
        mirror: pairs of the beginning of an address, and what stands in its place.
        offline: whether nothing may be downloaded.
        user: the user to log in as, or None for the image's.
        key: the private key of that user, or None for the image's.
        seed: the folder with data for cloud-init, or None.
        password: the password of that user, or None.
        hypervisor: ``auto`` or a name.
        executable: path of the hypervisor's program, or None to look it up in PATH.
        accel: ``auto``, ``kvm``, ``hvf`` or ``tcg``.
        start: ``auto``, ``cold``, ``warm`` or ``both``.
        cpus: virtual CPUs, or None for the image's.
        memory: bytes, or None for the image's.
        network: what guests can reach: ``nat``, ``isolated`` or ``none``.
        max_guests: limit of guests that run at the same time, or None if only their memory is limited.
        prewarm: number of guests that are started before their tests.
        templates_size: limit of disk space for templates, in bytes.
        keep: ``never``, ``on-failure`` or ``always``.
        save_failures: the folder for the guests of failed tests, or None to save none.
        save_failures_with_images: whether the guests' images are saved with them.
        failures_limit: how many of these there may be, and their size.
        report: the HTML page to write, or None.
        artifacts: a folder, or None to save nothing.
        strict: whether leftovers make the run fail.
        boot_timeout: seconds, before any factor.
        timeout_factor: factor for every timeout.
        brought: what images are asked for by, and the manifest of each, for those that another host has sent for this
            run.
        given: the options that were set, by name, each with its source: an option, a variable or an ini value.
    """

    images: tuple[str, ...] = ("debian12",)
    recipes: tuple[Path, ...] = ()
    distributions: Path | None = None
    mirror: tuple[tuple[str, str], ...] = ()
    offline: bool = False
    user: str | None = None
    key: Path | None = None
    seed: Path | None = None
    password: Secret | None = None
    hypervisor: HypervisorName = "auto"
    executable: str | None = None
    accel: Acceleration = "auto"
    start: RunStartMode = "auto"
    cpus: int | None = None
    memory: int | None = None
    network: Network = "nat"
    max_guests: int | None = None
    prewarm: int = 0
    templates_size: int = 8 << 30
    keep: KeepMode = "never"
    save_failures: Path | None = None
    save_failures_with_images: bool = False
    failures_limit: FailuresLimit = FAILURES_LIMIT
    report: Path | None = None
    artifacts: Path | None = None
    strict: bool = False
    boot_timeout: float = 120.0
    timeout_factor: float = 1.0
    brought: tuple[tuple[str, Path], ...] = ()
    given: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def load(cls, values: OptionSource, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the command line, the environment, the ini file and the defaults; the first that has a value wins.

        Args:
            values: the command line and the ini file.
            environment: the environment variables.

        Raises:
            ConfigurationError: a value is invalid; the message names its source.
        """
        found: dict[str, Any] = {}
        given: dict[str, str] = {}
        for option in OPTIONS:
            source, texts = find_texts(option, values, environment)
            if source is None:
                continue
            given[option.name] = source
            try:
                parsed = tuple(PARSERS[option.name](text) for text in texts)
            except ConfigurationError as error:
                raise ConfigurationError(f"{source}: {error}") from error
            if any(text == "" for text in texts):
                raise ConfigurationError(f"{source}: the value is empty")
            found[option.name] = parsed if option.repeatable else parsed[-1]
        if "image" in found:
            found["images"] = found.pop("image")
        return cls(given=given, password=_find_password(environment), **found)


def _find_password(environment: Mapping[str, str]) -> Secret | None:
    password = environment.get(PASSWORD_VARIABLE)
    if password is None:
        return None
    if not password:
        raise ConfigurationError(f"{PASSWORD_VARIABLE}: the value is empty")
    if "\n" in password:
        raise ConfigurationError(f"{PASSWORD_VARIABLE}: the value has more than one line")
    return Secret(password)
