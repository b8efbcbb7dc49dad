"""vfkit's flags as cobra and pflag read them (pkg/cmdline/cmdline.go): which there are, and what is wrong with some."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from standin.vfkit.usage import HELP, USAGE

VERSION = "v0.6.4"

_MAX_UINT = 2**64 - 1
# The forms that strconv.ParseUint takes with base 0; underscores may stand between digits.
_NUMBERS = ((r"0[xX]([0-9a-fA-F_]+)", 16), (r"0[bB]([01_]+)", 2), (r"0[oO]?([0-7_]+)", 8), (r"([0-9_]+)", 10))
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")


class Ended(Exception):
    """The program ends here.

    Attributes:
        code: its exit code.
        stdout, stderr: what it prints before.
    """

    def __init__(self, code: int, *, stdout: str = "", stderr: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.stdout = stdout
        self.stderr = stderr


def failed(message: str) -> Ended:
    """An error: cobra prints it with the usage, and main prints it once more (cmd/vfkit/root.go)."""
    return Ended(1, stderr=f"Error: {message}\n{USAGE}\n{message}\n")


class Invalid(Exception):
    """A value that its flag does not take; the message is what follows the flag's name."""


@dataclass
class Flags:
    """The flags as they were given."""

    cpus: int = 1
    memory: int = 512
    kernel: str = ""
    kernel_cmdline: str = ""
    initrd: str = ""
    bootloader: list[str] = field(default_factory=list)
    timesync: str = ""
    devices: list[str] = field(default_factory=list)
    restful_uri: str = "none://"
    log_level: str = ""
    gui: bool = False
    ignition: str = ""
    cloud_init: list[str] = field(default_factory=list)
    nested: bool = False
    pidfile: str = ""
    given: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Flag:
    name: str
    field: str
    read: Callable[[str, object], object]
    letter: str = ""
    is_bool: bool = False

    @property
    def shown(self) -> str:
        return f"-{self.letter}, --{self.name}" if self.letter else f"--{self.name}"


def parse_flags(words: Sequence[str]) -> Flags:
    """The flags among *words*, the command line without the program.

    Raises:
        Ended: vfkit prints its version, its help or an error.
    """
    flags = Flags()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            _take_long(word[2:], rest, flags)
        elif word.startswith("-") and word != "-":
            _take_letters(word[1:], rest, flags)
        # Other words are taken, and mean nothing: vfkit has no subcommands (legacyArgs in cobra's args.go).
    _check_groups(flags.given)
    return flags


def _take_long(text: str, rest: list[str], flags: Flags) -> None:
    name, equals, value = text.partition("=")
    if not name or name.startswith("-"):
        raise failed(f"bad flag syntax: --{text}")
    if name == "help":
        raise Ended(0, stdout=HELP)
    if name == "version":
        raise Ended(0, stdout=f"vfkit version: {VERSION}\n")
    flag = next((flag for flag in _FLAGS if flag.name == name), None)
    if flag is None:
        raise failed(f"unknown flag: --{name}")
    if not equals and not flag.is_bool:
        if not rest:
            raise failed(f"flag needs an argument: --{name}")
        value = rest.pop(0)
    _set(flag, value if equals or not flag.is_bool else "true", flags)


def _take_letters(letters: str, rest: list[str], flags: Flags) -> None:
    left = letters
    while left:
        letter, left = left[0], left[1:]
        if letter == "h":
            raise Ended(0, stdout=HELP)
        if letter == "v":
            raise Ended(0, stdout=f"vfkit version: {VERSION}\n")
        flag = next((flag for flag in _FLAGS if flag.letter == letter), None)
        if flag is None:
            raise failed(f"unknown shorthand flag: {letter!r} in -{letters}")
        if left.startswith("=") and len(left) > 1:
            value, left = left[1:], ""
        elif flag.is_bool:
            value = "true"
        elif left:
            value, left = left, ""
        elif rest:
            value = rest.pop(0)
        else:
            raise failed(f"flag needs an argument: {letter!r} in -{letters}")
        _set(flag, value, flags)


def _set(flag: _Flag, text: str, flags: Flags) -> None:
    try:
        setattr(flags, flag.field, flag.read(text, getattr(flags, flag.field)))
    except Invalid as invalid:
        raise failed(f'invalid argument "{text}" for "{flag.shown}" flag: {invalid}') from invalid
    flags.given.add(flag.name)


def _check_groups(given: set[str]) -> None:
    together = ["kernel", "initrd", "kernel-cmdline"]
    missing = [name for name in together if name not in given]
    if missing and len(missing) < len(together):
        raise failed(
            f"if any flags in the group [{' '.join(together)}] are set they must all be set; "
            f"missing [{' '.join(sorted(missing))}]"
        )
    # cobra goes through the groups in the order of their names.
    for name in sorted(together):
        if {name, "bootloader"} <= given:
            raise failed(
                f"if any flags in the group [{name} bootloader] are set none of the others can be; "
                f"[bootloader {name}] were all set"
            )


def _text(text: str, _: object) -> str:
    return text


def _one_more(text: str, so_far: object) -> list[str]:
    assert isinstance(so_far, list)
    return [*so_far, text]


def parse_uint(text: str, largest: int = _MAX_UINT) -> int:
    """A number as strconv.ParseUint reads it with base 0.

    Raises:
        Invalid: it is none.
    """
    for form, base in _NUMBERS:
        match = re.fullmatch(form, text)
        if match is not None:
            number = int(match[1].strip("_").replace("_", "") or "0", base)
            if number > largest:
                raise Invalid(f'strconv.ParseUint: parsing "{text}": value out of range')
            return number
    raise Invalid(f'strconv.ParseUint: parsing "{text}": invalid syntax')


def _uint(text: str, _: object) -> int:
    return parse_uint(text)


def _bool(text: str, _: object) -> bool:
    if text not in (*_TRUE, *_FALSE):
        raise Invalid(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return text in _TRUE


def _words(text: str, so_far: object) -> list[str]:
    """Words between commas; a comma between quotes separates none (pkg/cmdline/string_slice.go)."""
    assert isinstance(so_far, list)
    words, quoted = [""], False
    for character in text:
        if character == "," and not quoted:
            words.append("")
            continue
        quoted ^= character == '"'
        words[-1] += character
    if quoted:
        raise Invalid('mismatched "')
    return [*so_far, *([] if words == [""] else map(trim_quotes, words))]


def trim_quotes(text: str) -> str:
    """*text* without quotes, if it has some at both ends (pkg/util/strings.go)."""
    return text.strip('"') if text.startswith('"') and text.endswith('"') else text


_FLAGS = (
    _Flag("kernel", "kernel", _text, "k"),
    _Flag("kernel-cmdline", "kernel_cmdline", _text, "C"),
    _Flag("initrd", "initrd", _text, "i"),
    _Flag("bootloader", "bootloader", _words, "b"),
    _Flag("gui", "gui", _bool, is_bool=True),
    _Flag("cpus", "cpus", _uint, "c"),
    _Flag("memory", "memory", _uint, "m"),
    _Flag("timesync", "timesync", _text, "t"),
    _Flag("device", "devices", _one_more, "d"),
    _Flag("log-level", "log_level", _text),
    _Flag("restful-uri", "restful_uri", _text),
    _Flag("ignition", "ignition", _text),
    _Flag("cloud-init", "cloud_init", _words),
    _Flag("nested", "nested", _bool, "n", is_bool=True),
    _Flag("pidfile", "pidfile", _text),
)
