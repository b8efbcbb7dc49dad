"""The table of options: what a user can type, write in an ini file, or set in the environment.

`OPTIONS` defines each option once: its pytest option, its ini value and its environment variable. pytest needs the
table in every run of an environment in which the plugin is installed. What the texts mean is in `settings`, which only
some runs import.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

INI = "ini value"
"""The prefix of a source's name if the value comes from the ini file."""

PASSWORD_VARIABLE = "PYTEST_XHYVE_PASSWORD"  # noqa: S105  # a name
"""The environment variable with the password of ``--xhyve-user``. It is not an option, as process lists show those."""

# Not the colon after the scheme of an address, nor the one before its port.
_BETWEEN_VALUES = rf"{re.escape(os.pathsep)}(?!//|[0-9]+/[^:]*#)"


class Option(NamedTuple):
    """One option of the plugin.

    It is a tuple because pytest creates this table in every run, and a dataclass takes longer to create.

    Attributes:
        name: the ini key without ``xhyve_``, and the option without ``--xhyve-``.
        metavar: the placeholder for the value in the help text.
        help: the help text, with the default.
        environment: whether the variable ``PYTEST_XHYVE_NAME`` sets it, too.
        repeatable: whether the option may be given several times.
        switch: whether the option takes no value.
        value_if_bare: the value if the option is given without one; None if it needs one.
    """

    name: str
    metavar: str
    help: str
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
        repeatable=True,
    ),
    Option(
        "distributions",
        "FILE",
        "list of images by name, with their addresses, for names that the plugin's list does not have (default: none)",
    ),
    Option(
        "mirror",
        "PREFIX=PREFIX",
        "download addresses that begin with the first prefix from the second one; may be given several times "
        "(default: none)",
        repeatable=True,
    ),
    Option(
        "offline",
        "",
        "download nothing: use the images that were pulled before",
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
    ),
    Option(
        "key",
        "FILE",
        "the private key of --xhyve-user, without a passphrase (default: the plugin's own)",
    ),
    Option(
        "seed",
        "FOLDER",
        "folder with your own user-data for cloud-init, and with meta-data, network-config and vendor-data if you have "
        "them (default: a configuration with DHCP)",
    ),
    Option(
        "hypervisor",
        "NAME",
        "the program that runs guests: auto, vfkit, xhyve, hyperkit or qemu; auto selects the first of these that "
        "works on this host (default: auto)",
        environment=True,
    ),
    Option("executable", "PATH", "path of the hypervisor's program (default: looked up in PATH)"),
    Option(
        "accel",
        "NAME",
        "QEMU's acceleration: auto, kvm, hvf or tcg; auto runs a short test program and selects what works "
        "(default: auto)",
        environment=True,
    ),
    Option(
        "start",
        "HOW",
        "how guests start: cold boots them, warm restores them from a template that was booted once, both runs each "
        "test twice, once each way, auto is warm if the hypervisor supports it, else cold (default: auto)",
        environment=True,
    ),
    Option("cpus", "N", "virtual CPUs of a guest (default: the image's)"),
    Option("memory", "SIZE", "memory of a guest, such as 512M or 2G (default: the image's)"),
    Option(
        "network",
        "NAME",
        "what guests can reach beside their test: nat (all that this host can, its loopback interface included), "
        "isolated (what the test exposes to them), none (nothing); SSH works with each (default: nat)",
        environment=True,
    ),
    Option(
        "max_guests",
        "N",
        "limit of guests that run at the same time, over all processes of this user; beside it, they may take three "
        "quarters of the host's memory (default: as many as the hypervisor can run)",
        environment=True,
    ),
    Option(
        "prewarm",
        "N",
        "number of guests that the plugin starts in the background for the next tests; --xhyve-max-guests and the "
        "host's memory limit it (default: 0)",
    ),
    Option(
        "templates_size",
        "SIZE",
        "limit of disk space for templates; above it, the plugin removes the least recently used ones (default: 8G)",
    ),
    Option(
        "keep",
        "WHEN",
        "leave the guests of a test running after it, and print how to log in: never, on-failure or always; "
        "`pytest-xhyve reap` removes them (default: never)",
        environment=True,
    ),
    Option(
        "save_failures",
        "DIR",
        "save the guests of a failed test, with their memory and disks, as DIR/TEST.xhyve; `pytest-xhyve resume` lets "
        "them go on from the moment of the failure (DIR if only the option is given: xhyve-failures)",
        environment=True,
        value_if_bare="xhyve-failures",
    ),
    Option(
        "save_failures_with_images",
        "",
        "let --xhyve-save-failures also save the guests' images, for a computer that does not have them",
        environment=True,
        switch=True,
    ),
    Option(
        "failures_limit",
        "N[,SIZE]",
        "how many bundles --xhyve-save-failures keeps in DIR, and how much disk space they may take together; the "
        "least useful are removed first (default: 20,4G)",
    ),
    Option(
        "report",
        "FILE",
        "write an HTML page about the run: a timeline of its tests and guests, and the details of failed tests",
        environment=True,
    ),
    Option(
        "artifacts",
        "DIR",
        "folder for diagnostics; the plugin saves for each test the console and the journal of its guests, and the "
        "files that the test fetched",
        environment=True,
    ),
    Option(
        "strict",
        "",
        "fail the run if it leaves a guest's process, folder or lock behind",
        switch=True,
    ),
    Option(
        "boot_timeout",
        "SECONDS",
        "limit from a guest's start to a working SSH login; 4 times as long if the CPU is emulated (default: 120)",
    ),
    Option(
        "timeout_factor",
        "X",
        "factor for all of the plugin's time limits, for slow hosts (default: 1)",
        environment=True,
    ),
)


class OptionSource(Protocol):
    """The source of options and ini values; `pytest.Config` is one."""

    def getoption(self, name: str) -> Any:
        """The value given on the command line, or None."""

    def getini(self, name: str) -> Any:
        """The value in the ini file; None or an empty list if the file does not set it."""


def is_any_given(values: OptionSource, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the user has set an option or the password."""
    if PASSWORD_VARIABLE in environment:
        return True
    return any(find_texts(option, values, environment)[0] is not None for option in OPTIONS)


def find_texts(
    option: Option, values: OptionSource, environment: Mapping[str, str]
) -> tuple[str | None, tuple[str, ...]]:
    """The source of *option* and its texts, or None and no texts; a 0 or an empty string counts as given."""
    typed = values.getoption(option.ini)
    if typed is not None:
        return option.flag, tuple(typed) if option.repeatable else (typed,)
    if option.environment and option.variable in environment:
        text = environment[option.variable]
        return option.variable, tuple(re.split(_BETWEEN_VALUES, text)) if option.repeatable else (text,)
    written = values.getini(option.ini)
    if written is None or written == []:
        return None, ()
    return f"{INI} {option.ini}", tuple(written) if option.repeatable else (written,)
