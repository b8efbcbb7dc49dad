"""Options, environment and ini file, made into one frozen `Settings`.

The table `OPTIONS` is the one place that knows an option: pytest's option and ini value, the environment variable
and the default all come from it. Nothing heavy is imported here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.values import (
    parse_bool,
    parse_choice,
    parse_memory,
    parse_non_negative_int,
    parse_path,
    parse_positive_float,
    parse_positive_int,
    parse_size,
)

INI = "ini value"
"""How the source of a value begins that stands in the ini file."""

MAX_GUESTS = 200
"""More guests at once than any host has memory for; a hypervisor may have a lower limit of its own."""

EMULATION_FACTOR = 4.0
"""By how much timeouts are longer when the hypervisor emulates the CPU."""


def _max_guests(text: str) -> int:
    number = parse_positive_int(text)
    if number > MAX_GUESTS:
        raise ConfigurationError(f"{text!r} is more than {MAX_GUESTS}, the most that there can be")
    return number


class Option(NamedTuple):
    """One option of the plugin; a tuple, as pytest makes this table in every run, and a dataclass costs more.

    Attributes:
        name: the ini key without ``xhyve_``, and the option without ``--xhyve-``.
        metavar: what stands for the value in the help.
        help: what it is for, with its default.
        parse: text to value; raises `ConfigurationError`.
        default: the value (not text) when nothing was given.
        environment: whether ``PYTEST_XHYVE_NAME`` counts too.
        repeatable: whether the option may be given several times.
        switch: whether the option takes no value.
    """

    name: str
    metavar: str
    help: str
    parse: Callable[[str], Any] = str
    default: Any = None
    environment: bool = False
    repeatable: bool = False
    switch: bool = False

    @property
    def flag(self) -> str:
        return "--xhyve-" + self.name.replace("_", "-")

    @property
    def ini(self) -> str:
        return f"xhyve_{self.name}"

    @property
    def variable(self) -> str:
        return f"PYTEST_XHYVE_{self.name.upper()}"


OPTIONS = (
    Option(
        "image",
        "IMAGE",
        "what guests are cloned from: a name of the catalog (debian12, tiny), a path to a disk that has a manifest "
        "beside it, or to a manifest (.yaml); given twice, each test that asks for a guest runs once on each "
        "(default: debian12)",
        default=("debian12",),
        environment=True,
        repeatable=True,
    ),
    Option(
        "hypervisor",
        "NAME",
        "the program that runs guests: auto, xhyve, hyperkit or qemu; auto takes the first of these that works here "
        "(default: auto)",
        parse_choice("auto", "xhyve", "hyperkit", "qemu"),
        default="auto",
        environment=True,
    ),
    Option("executable", "PATH", "the hypervisor's program (default: looked up in PATH)"),
    Option(
        "accel",
        "NAME",
        "QEMU's acceleration: auto, kvm, hvf or tcg; auto takes what was proved to work by running something "
        "(default: auto)",
        parse_choice("auto", "kvm", "hvf", "tcg"),
        default="auto",
        environment=True,
    ),
    Option(
        "start",
        "HOW",
        "how guests start: cold boots them, warm restores them from a template that has booted once, both runs each "
        "test twice, once each way, auto is warm where the hypervisor can and cold elsewhere (default: auto)",
        parse_choice("auto", "cold", "warm", "both"),
        default="auto",
        environment=True,
    ),
    Option("cpus", "N", "virtual CPUs of a guest (default: the image's)", parse_positive_int),
    Option("memory", "SIZE", "memory of a guest, as 512M or 2G (default: the image's)", parse_memory),
    Option(
        "max_guests",
        "N",
        "guests alive at once, over all processes of this user (default: from the host's memory)",
        _max_guests,
        environment=True,
    ),
    Option(
        "prewarm",
        "N",
        "guests that are kept ready in the background for the tests that come next; no more than --xhyve-max-guests "
        "and the host's memory leave room for (default: 0)",
        parse_non_negative_int,
        default=0,
    ),
    Option(
        "templates_size",
        "SIZE",
        "what templates may take of the disk; beyond it, those unused for longest are removed (default: 8G)",
        parse_size,
        default=8 << 30,
    ),
    Option(
        "keep",
        "WHEN",
        "leave the guests of a test running when it is over, and print how to log in: never, on-failure or always; "
        "`pytest-xhyve reap` removes them (default: never)",
        parse_choice("never", "on-failure", "always"),
        default="never",
        environment=True,
    ),
    Option(
        "artifacts",
        "DIR",
        "keep what is known of each test's guests, in a folder for each test: the console, the journal, and what the "
        "test fetched",
        parse_path,
        environment=True,
    ),
    Option(
        "strict",
        "",
        "fail the run when something of its guests is left at its end: a process, a folder or a lock",
        parse_bool,
        default=False,
        switch=True,
    ),
    Option(
        "boot_timeout",
        "SECONDS",
        "from a guest's start to a working SSH login; "
        f"{EMULATION_FACTOR:g} times as long where the CPU is emulated (default: 120)",
        parse_positive_float,
        default=120.0,
    ),
    Option(
        "timeout_factor",
        "X",
        "multiplies the plugin's time limits, for slow hosts (default: 1)",
        parse_positive_float,
        default=1.0,
        environment=True,
    ),
)


class OptionSource(Protocol):
    """Where settings come from: `pytest.Config` is one."""

    def getoption(self, name: str) -> Any:
        """The value given on the command line, or None."""

    def getini(self, name: str) -> Any:
        """The value in the ini file, or what stands for none."""


@dataclass(frozen=True)
class Settings:
    """What was asked for, after all sources were asked.

    Attributes:
        images: names or paths, at least one.
        hypervisor: ``auto`` or a name.
        executable: the hypervisor's program, or None to look it up.
        accel: ``auto``, ``kvm``, ``hvf`` or ``tcg``.
        start: ``auto``, ``cold``, ``warm`` or ``both``.
        cpus: virtual CPUs, or None for the image's.
        memory: bytes, or None for the image's.
        max_guests: guests alive at once, or None to work it out.
        prewarm: guests kept ready for the tests that come.
        templates_size: bytes that templates may take.
        keep: ``never``, ``on-failure`` or ``always``.
        artifacts: a folder, or None to keep nothing.
        strict: whether leftovers make the run fail.
        boot_timeout: seconds, before any factor.
        timeout_factor: multiplies every timeout.
        given: the names of the options that were set somewhere, and where: an option, a variable or an ini value.
    """

    images: tuple[str, ...] = ("debian12",)
    hypervisor: str = "auto"
    executable: str | None = None
    accel: str = "auto"
    start: str = "auto"
    cpus: int | None = None
    memory: int | None = None
    max_guests: int | None = None
    prewarm: int = 0
    templates_size: int = 8 << 30
    keep: str = "never"
    artifacts: Path | None = None
    strict: bool = False
    boot_timeout: float = 120.0
    timeout_factor: float = 1.0
    given: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def load(cls, values: OptionSource, environment: Mapping[str, str] = os.environ) -> Settings:
        """Ask the command line, the environment, the ini file and the defaults, in this order.

        Raises:
            ConfigurationError: a value is invalid; the message names its source.
        """
        found: dict[str, Any] = {}
        given: dict[str, str] = {}
        for option in OPTIONS:
            source, texts = _find(option, values, environment)
            if source is None:
                found[option.name] = option.default
                continue
            given[option.name] = source
            try:
                parsed = tuple(option.parse(text) for text in texts)
            except ConfigurationError as error:
                raise ConfigurationError(f"{source}: {error}") from error
            if any(text == "" for text in texts):
                raise ConfigurationError(f"{source}: the value is empty")
            found[option.name] = parsed if option.repeatable else parsed[-1]
        return cls(images=found.pop("image"), given=given, **found)


def _find(option: Option, values: OptionSource, environment: Mapping[str, str]) -> tuple[str | None, tuple[str, ...]]:
    """Where *option* was given and the texts; a given 0 or empty string counts as given."""
    typed = values.getoption(option.ini)
    if typed is not None:
        return option.flag, tuple(typed) if option.repeatable else (typed,)
    if option.environment and option.variable in environment:
        text = environment[option.variable]
        return option.variable, tuple(text.split(os.pathsep)) if option.repeatable else (text,)
    written = values.getini(option.ini)
    if written is None or written == []:
        return None, ()
    return f"{INI} {option.ini}", tuple(written) if option.repeatable else (written,)
