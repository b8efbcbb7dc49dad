"""The options of commands that are options of the plugin, too: there, without the prefix ``xhyve-``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, get_args

import click
from click.core import ParameterSource

from pytest_xhyve.model.errors import ConfigurationError, XhyveError
from pytest_xhyve.model.options import OPTIONS, Option
from pytest_xhyve.model.settings import PARSERS, Settings
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.values import StartMode, parse_choice

# A command has the options that it reads, and no other one.
LOOKUP = ("recipes", "distributions")
"""Where an image is looked up by its name."""

PLACES = (*LOOKUP, "mirror", "offline")
"""The same for a command that also downloads the image."""

LOGIN = ("user", "key", "seed")
"""How a command that prepares a disk logs in to it."""

HYPERVISOR = ("hypervisor", "executable", "accel", "timeout_factor")
"""What runs a machine."""

BOOT = (*HYPERVISOR, "boot_timeout")
"""The same for a machine that the command logs in to: a guest, or one that looks into a disk."""

MACHINE = ("cpus", "memory")
"""What the machine is made of."""

GUEST = (*PLACES, *LOGIN, *BOOT, *MACHINE, "start", "network", "max_guests")
"""What a command needs that starts a guest for the user."""

# Without "both", which runs each test twice.
_START = (
    "how the guest starts: cold boots it, warm restores it from a template that was booted once (and makes the "
    "template first if there is none), auto is warm if the hypervisor supports it, else cold (default: auto)"
)
_PARSERS = {**PARSERS, "start": parse_choice(*get_args(StartMode))}
_FAILED = 255

Typed = str | tuple[str, ...] | bool | None
"""The value of an option as typed; a tuple of all values if it may be given several times; a switch is True."""

ADVICE = "run `pytest-xhyve doctor` to find problems of this host"
"""What to do about an unexpected error."""


def _ours() -> list[Option]:
    options = [option for option in OPTIONS if option.name in GUEST]
    return [option._replace(help=_START) if option.name == "start" else option for option in options]


def _flag(option: Option) -> str:
    return option.flag.replace("--xhyve-", "--")


def machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the keys of the marker that are not options of the plugin to *command*; `load_spec` takes their values."""
    add_disks = click.option(
        "--disk",
        "disks",
        multiple=True,
        metavar="SIZE",
        help="Give the guest an empty disk, such as 1G: /dev/vdb, and for further ones /dev/vdc and so on.",
    )
    add_size = click.option(
        "--disk-size",
        metavar="SIZE",
        help="Size of the guest's disk /dev/vda; the root file system grows into it (default: the image's).",
    )
    add_firmware = click.option(
        "--firmware",
        metavar="NAME",
        help="Boot the guest by the boot loader of its disk: bios or uefi (default: load the kernel directly).",
    )
    return add_disks(add_size(add_firmware(command)))


def load_spec(image: str, *, disks: Sequence[str], disk_size: str | None, firmware: str | None) -> GuestSpec:
    """The guest of *image* with the values of `machine_options`.

    Raises:
        ConfigurationError: a value is invalid; the message names its option.
    """
    try:
        return GuestSpec.parse(image=image, disks=disks or None, disk_size=disk_size, firmware=firmware)
    except ConfigurationError as error:
        key, _, problem = str(error).partition(": ")
        raise ConfigurationError(f"--{key.removesuffix('s').replace('_', '-')}: {problem}") from error


def settings_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds the options *names* to a command; `load_settings` takes their values as typed."""
    options = [option for option in _ours() if option.name in names]
    return lambda command: _with_options(command, options)


def _with_options(command: Callable[..., Any], options: Sequence[Option]) -> Callable[..., Any]:
    for option in reversed(options):
        text = option.help + (f"; {option.variable} in the environment" if option.environment else "")
        add = click.option(
            _flag(option),
            option.name,
            metavar=option.metavar or None,
            multiple=option.repeatable,
            is_flag=option.switch,
            callback=_checked_by(option),
            help=with_cli_option_names(f"{text[0].upper()}{text[1:]}."),
        )
        command = add(command)
    return command


def typed_options(context: click.Context, *, but: Sequence[str] = ()) -> list[str]:
    """The options that the user typed, as typed; those with the names in *but* are left out."""
    return [
        param.opts[0]
        for param in context.command.params
        if isinstance(param, click.Option)
        and param.name not in but
        and context.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
    ]


def load_settings(typed: Mapping[str, Typed]) -> Settings:
    """The settings from the options as *typed*, by their names, and from the environment.

    Settings for tests do not apply: a command does not keep its guest, and starts it only once.

    Raises:
        ConfigurationError: a value is invalid; the message names its source.
    """
    settings = Settings.load(_Values(typed))
    return settings._replace(keep="never", start="auto" if settings.start == "both" else settings.start)


class GuestCommand(click.Command):
    """A command that starts a guest: it parses its arguments like ssh, and has the exit codes of ssh."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(context, self._end_options(args))

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except ConfigurationError as error:
            raise click.UsageError(with_cli_option_names(str(error)), context) from error
        except XhyveError as error:
            _fail(with_cli_option_names(str(error)), error)
        except BrokenPipeError:
            # The reader of the output has closed its end; click handles this.
            raise
        except OSError as error:
            _fail(f"{error}\n  {ADVICE}", error)

    def _end_options(self, args: list[str]) -> list[str]:
        """*args* with ``--`` before the command: options may follow the image, as they may follow ssh's host."""
        with_value = {
            name
            for param in self.params
            if isinstance(param, click.Option) and not param.is_flag and not param.count
            for name in param.opts
        }
        place, has_image = 0, False
        while place < len(args) and args[place] != "--":
            if not args[place].startswith("-"):
                if has_image:
                    return [*args[:place], "--", *args[place:]]
                has_image = True
            place += 2 if args[place] in with_value else 1
        return args


class DiskCommand(GuestCommand):
    """A command about a disk: its options may stand anywhere, as it has no command for the guest."""

    def _end_options(self, args: list[str]) -> list[str]:
        return args


class _Failed(click.ClickException):
    exit_code = _FAILED


def _checked_by(option: Option) -> Callable[[click.Context, click.Parameter, Typed], Typed]:
    """A callback that names the option if its value is invalid; it does not convert the text."""

    def check(context: click.Context, param: click.Parameter, typed: Typed) -> Typed:
        try:
            for text in (typed,) if isinstance(typed, str) else typed if isinstance(typed, tuple) else ():
                _PARSERS[option.name](text)
        except ConfigurationError as error:
            raise click.BadParameter(str(error), context, param) from error
        return typed

    return check


class _Values:
    """The options as typed, as an `OptionSource` for `Settings.load`."""

    def __init__(self, typed: Mapping[str, Typed]) -> None:
        self._typed = {f"xhyve_{name}": value for name, value in typed.items()}

    def getoption(self, name: str) -> Typed:
        typed = self._typed.get(name)
        # click gives these for options that were not typed.
        return None if typed in ((), False) else typed

    def getini(self, name: str) -> None:
        del name


def with_cli_option_names(text: str) -> str:
    """*text* with the names of the plugin's options replaced by those of the command line."""
    for option in _ours():
        text = re.sub(rf"{re.escape(option.flag)}(?![\w-])", _flag(option), text)
    return text


def _fail(text: str, error: Exception) -> NoReturn:
    raise _Failed(text) from error


def check_image(image: str, options: Mapping[str, Any]) -> None:
    """Raise a usage error if no image is named *image*, with the options of a command.

    Raises:
        click.BadParameter: see above.
    """
    from pytest_xhyve.host.home import Home  # noqa: PLC0415
    from pytest_xhyve.images.places import Places  # noqa: PLC0415
    from pytest_xhyve.images.sources import find_source  # noqa: PLC0415

    places = Places.of(Home.of_user(), load_settings(options))
    try:
        find_source(image, places=places)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint="'IMAGE'") from error
