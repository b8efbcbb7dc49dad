"""The options of commands that start a guest: the plugin's own, without ``xhyve-`` before their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn, get_args

import click

from pytest_xhyve.model.errors import ConfigurationError, XhyveError
from pytest_xhyve.model.settings import OPTIONS, Option, Settings
from pytest_xhyve.model.values import StartMode, parse_choice

_NAMES = (
    "hypervisor",
    "executable",
    "accel",
    "start",
    "cpus",
    "memory",
    "boot_timeout",
    "timeout_factor",
    "max_guests",
)
# No test is run that could be run on either.
_START = (
    "how the guest starts: cold boots it, warm restores it from a template that has booted once (made first, where "
    "there is none), auto is warm where the hypervisor can and cold elsewhere (default: auto)"
)
_FAILED = 255

ADVICE = "`pytest-xhyve doctor` looks for what is wrong here"
"""What to do about errors that nobody expects."""


def _ours() -> list[Option]:
    options = [option for option in OPTIONS if option.name in _NAMES]
    return [
        option._replace(help=_START, parse=parse_choice(*get_args(StartMode))) if option.name == "start" else option
        for option in options
    ]


def _flag(option: Option) -> str:
    return option.flag.replace("--xhyve-", "--")


def guest_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give *command* the options; their values, as typed, are for `gather`."""
    for option in reversed(_ours()):
        text = option.help + (f"; {option.variable} in the environment" if option.environment else "")
        add = click.option(
            _flag(option),
            option.name,
            metavar=option.metavar,
            callback=_checked_by(option),
            help=f"{text[0].upper()}{text[1:]}.",
        )
        command = add(command)
    return command


def load_settings(typed: Mapping[str, str | None]) -> Settings:
    """Settings from what was *typed*, by the options' names, and the environment, as the plugin gathers them.

    What is about tests does not count: a guest of a command ends with it, and starts in one way.

    Raises:
        ConfigurationError: a value is invalid; the message names its source.
    """
    settings = Settings.load(_Values(typed))
    return replace(settings, keep="never", start="auto" if settings.start == "both" else settings.start)


class GuestCommand(click.Command):
    """A command about a guest: its words are read as ssh reads them, and its failures end as those of ssh."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(context, self._end_options(args))

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except ConfigurationError as error:
            raise click.UsageError(with_cli_option_names(str(error)), context) from error
        except XhyveError as error:
            _fail(with_cli_option_names(str(error)), error)
        except OSError as error:
            _fail(f"{error}\n  {ADVICE}", error)

    def _end_options(self, args: list[str]) -> list[str]:
        """*args* with ``--`` before the command: options stand on either side of the image, as with ssh's host."""
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


class _Failed(click.ClickException):
    exit_code = _FAILED


def _checked_by(option: Option) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """A callback that names the option when its value is invalid; the text stays text."""

    def check(context: click.Context, param: click.Parameter, text: str | None) -> str | None:
        try:
            if text is not None:
                option.parse(text)
        except ConfigurationError as error:
            raise click.BadParameter(str(error), context, param) from error
        return text

    return check


class _Values:
    """What was typed, as `Settings.gather` asks for it."""

    def __init__(self, typed: Mapping[str, str | None]) -> None:
        self._typed = {f"xhyve_{name}": value for name, value in typed.items()}

    def getoption(self, name: str) -> str | None:
        return self._typed.get(name)

    def getini(self, name: str) -> None:
        del name


def with_cli_option_names(text: str) -> str:
    """*text* with the options under the names that they have here."""
    for option in _ours():
        text = re.sub(rf"{re.escape(option.flag)}(?![\w-])", _flag(option), text)
    return text


def _fail(text: str, error: Exception) -> NoReturn:
    raise _Failed(text) from error
