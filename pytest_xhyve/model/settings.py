"""Options, environment variables and ini values, merged into one frozen `Settings`.

The table `OPTIONS` defines each option once: its pytest option, its ini value and its environment variable. The
defaults are those of `Settings`. This module imports nothing heavy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, get_args

from pytest_xhyve.model.errors import ConfigurationError
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

if TYPE_CHECKING:
    from pytest_xhyve.model.secret import Secret

INI = "ini value"
"""The prefix of a source's name if the value comes from the ini file."""

MAX_GUESTS = 200
"""The highest limit of guests; no host has memory for more. A hypervisor may have a lower limit."""

PASSWORD_VARIABLE = "PYTEST_XHYVE_PASSWORD"  # noqa: S105  # a name
"""The environment variable with the password of ``--xhyve-user``. It is not an option, as process lists show those."""

# Not the colon after the scheme of an address, nor the one before its port.
_BETWEEN_VALUES = re.compile(rf"{re.escape(os.pathsep)}(?!//|[0-9]+/[^:]*#)")

EMULATION_FACTOR = 4.0
"""The factor by which the plugin multiplies timeouts when the hypervisor emulates the CPU."""


def _max_guests(text: str) -> int:
    number = parse_positive_int(text)
    if number > MAX_GUESTS:
        raise ConfigurationError(f"{text!r} is more than {MAX_GUESTS}, the highest possible limit")
    return number


class Option(NamedTuple):
    """One option of the plugin.

    It is a tuple because pytest creates this table in every run, and a dataclass takes longer to create.

    Attributes:
        name: the ini key without ``xhyve_``, and the option without ``--xhyve-``.
        metavar: the placeholder for the value in the help text.
        help: the help text, with the default.
        parse: turns text into a value; raises `ConfigurationError`.
        environment: whether the variable ``PYTEST_XHYVE_NAME`` sets it, too.
        repeatable: whether the option may be given several times.
        switch: whether the option takes no value.
        value_if_bare: the value if the option is given without one; None if it needs one.
    """

    name: str
    metavar: str
    help: str
    parse: Callable[[str], Any] = str
    environment: bool = False
    repeatable: bool = False
    switch: bool = False
    value_if_bare: str | None = None

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
        "the image that guests are cloned from: the name of an image of the catalog (debian12, tiny), a recipe, a "
        "saved guest or a distribution (debian-12); the path of a disk with a Linux on it, a manifest (.yaml) or a "
        "recipe; or the address of a disk (https://HOST/FILE#sha256=DIGEST); if given twice, each test that requests a "
        "guest runs once on each image (default: debian12)",
        environment=True,
        repeatable=True,
    ),
    Option(
        "recipes",
        "FOLDER",
        "folder with recipes of the project, each in a folder of its own, which is named as its image; may be given "
        "several times (default: none)",
        parse_path,
        repeatable=True,
    ),
    Option(
        "distributions",
        "FILE",
        "list of images by name, with their addresses, for names that the plugin's list does not have (default: none)",
        parse_path,
    ),
    Option(
        "mirror",
        "PREFIX=PREFIX",
        "download addresses that begin with the first prefix from the second one; may be given several times "
        "(default: none)",
        parse_mirror,
        repeatable=True,
    ),
    Option(
        "offline",
        "",
        "download nothing: use the images that were pulled before",
        parse_bool,
        environment=True,
        switch=True,
    ),
    Option(
        "user",
        "NAME",
        "the user on your disk that the plugin logs in as, by --xhyve-key or by a password; sudo may ask for the same "
        "password; it comes from PYTEST_XHYVE_PASSWORD or the manifest, or pytest asks for it at the terminal; images "
        "of the catalog have their own login (default: root, by the plugin's key, which is added to a layer over the "
        "disk)",
        parse_user,
    ),
    Option(
        "key",
        "FILE",
        "the private key of --xhyve-user, without a passphrase (default: the plugin's own)",
        parse_path,
    ),
    Option(
        "seed",
        "FOLDER",
        "folder with your own user-data for cloud-init, and with meta-data, network-config and vendor-data if you have "
        "them (default: a configuration with DHCP)",
        parse_path,
    ),
    Option(
        "hypervisor",
        "NAME",
        "the program that runs guests: auto, vfkit, xhyve, hyperkit or qemu; auto selects the first of these that "
        "works on this host (default: auto)",
        parse_choice(*get_args(HypervisorName)),
        environment=True,
    ),
    Option("executable", "PATH", "path of the hypervisor's program (default: looked up in PATH)"),
    Option(
        "accel",
        "NAME",
        "QEMU's acceleration: auto, kvm, hvf or tcg; auto runs a short test program and selects what works "
        "(default: auto)",
        parse_choice(*get_args(Acceleration)),
        environment=True,
    ),
    Option(
        "start",
        "HOW",
        "how guests start: cold boots them, warm restores them from a template that was booted once, both runs each "
        "test twice, once each way, auto is warm if the hypervisor supports it, else cold (default: auto)",
        parse_choice(*get_args(RunStartMode)),
        environment=True,
    ),
    Option("cpus", "N", "virtual CPUs of a guest (default: the image's)", parse_positive_int),
    Option("memory", "SIZE", "memory of a guest, such as 512M or 2G (default: the image's)", parse_memory),
    Option(
        "network",
        "NAME",
        "what guests can reach beside their test: nat (all that this host can, its loopback interface included), "
        "isolated (what the test exposes to them), none (nothing); SSH works with each (default: nat)",
        parse_choice(*get_args(Network)),
        environment=True,
    ),
    Option(
        "max_guests",
        "N",
        "limit of guests that run at the same time, over all processes of this user; beside it, they may take three "
        "quarters of the host's memory (default: as many as the hypervisor can run)",
        _max_guests,
        environment=True,
    ),
    Option(
        "prewarm",
        "N",
        "number of guests that the plugin starts in the background for the next tests; --xhyve-max-guests and the "
        "host's memory limit it (default: 0)",
        parse_non_negative_int,
    ),
    Option(
        "templates_size",
        "SIZE",
        "limit of disk space for templates; above it, the plugin removes the least recently used ones (default: 8G)",
        parse_size,
    ),
    Option(
        "keep",
        "WHEN",
        "leave the guests of a test running after it, and print how to log in: never, on-failure or always; "
        "`pytest-xhyve reap` removes them (default: never)",
        parse_choice(*get_args(KeepMode)),
        environment=True,
    ),
    Option(
        "save_failures",
        "DIR",
        "save the guests of a failed test, with their memory and disks, as DIR/TEST.xhyve; `pytest-xhyve resume` lets "
        "them go on from the moment of the failure (DIR if only the option is given: xhyve-failures)",
        parse_path,
        environment=True,
        value_if_bare="xhyve-failures",
    ),
    Option(
        "save_failures_with_images",
        "",
        "let --xhyve-save-failures also save the guests' images, for a computer that does not have them",
        parse_bool,
        environment=True,
        switch=True,
    ),
    Option(
        "failures_limit",
        "N[,SIZE]",
        "how many bundles --xhyve-save-failures keeps in DIR, and how much disk space they may take together; the "
        "least useful are removed first (default: 20,4G)",
        parse_failures_limit,
    ),
    Option(
        "report",
        "FILE",
        "write an HTML page about the run: a timeline of its tests and guests, and the details of failed tests",
        parse_path,
        environment=True,
    ),
    Option(
        "artifacts",
        "DIR",
        "folder for diagnostics; the plugin saves for each test the console and the journal of its guests, and the "
        "files that the test fetched",
        parse_path,
        environment=True,
    ),
    Option(
        "strict",
        "",
        "fail the run if it leaves a guest's process, folder or lock behind",
        parse_bool,
        switch=True,
    ),
    Option(
        "boot_timeout",
        "SECONDS",
        "limit from a guest's start to a working SSH login; "
        f"{EMULATION_FACTOR:g} times as long if the CPU is emulated (default: 120)",
        parse_positive_float,
    ),
    Option(
        "timeout_factor",
        "X",
        "factor for all of the plugin's time limits, for slow hosts (default: 1)",
        parse_positive_float,
        environment=True,
    ),
)


class OptionSource(Protocol):
    """The source of options and ini values; `pytest.Config` is one."""

    def getoption(self, name: str) -> Any:
        """The value given on the command line, or None."""

    def getini(self, name: str) -> Any:
        """The value in the ini file; None or an empty list if the file does not set it."""


class Settings(NamedTuple):
    """The values of all options, merged from all sources.

    It is a tuple for the same reason as `Option`.

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
            source, texts = _find(option, values, environment)
            if source is None:
                continue
            given[option.name] = source
            try:
                parsed = tuple(option.parse(text) for text in texts)
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
    # Few runs have a password.
    from pytest_xhyve.model.secret import Secret

    return Secret(password)


def _find(option: Option, values: OptionSource, environment: Mapping[str, str]) -> tuple[str | None, tuple[str, ...]]:
    """The source of *option* and its texts, or None and no texts; a 0 or an empty string counts as given."""
    typed = values.getoption(option.ini)
    if typed is not None:
        return option.flag, tuple(typed) if option.repeatable else (typed,)
    if option.environment and option.variable in environment:
        text = environment[option.variable]
        return option.variable, tuple(_BETWEEN_VALUES.split(text)) if option.repeatable else (text,)
    written = values.getini(option.ini)
    if written is None or written == []:
        return None, ()
    return f"{INI} {option.ini}", tuple(written) if option.repeatable else (written,)
