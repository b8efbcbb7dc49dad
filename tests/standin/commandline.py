"""What a command line of xhyve means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from standin.cnumbers import atoi, scan_decimals, strtoul
from standin.getopt import BadOption, getopt
from standin.usage import usage, version

Build = Literal["v0.2.0", "head", "hyperkit"]

# Of src/xhyve.c in xhyve's sources and src/hyperkit.c in hyperkit's. Usage text and man page call -Y a flag, but a
# colon was left behind when bhyve's -p was taken out, so it takes an argument.
_OPTIONS = {
    "v0.2.0": "behvuwxACHPWY:f:g:c:s:m:l:U:",
    "head": "behvuwxMACHPWY:f:F:g:c:s:m:l:U:",
    "hyperkit": "behvuwxMACHPWY:f:F:g:c:s:m:l:U:",
}
_FLAGS = {"A": "acpi", "u": "utc", "M": "print_mac"}
_TEXTS = {"F": "pidfile", "U": "uuid"}
_NUMBERS = {"c": "cpus", "g": "gdb_port"}

# fmt: off
_EVERYWHERE = frozenset({
    "hostbridge", "amd_hostbridge", "lpc", "uart", "virtio-blk", "ahci-hd", "ahci-cd", "virtio-net", "virtio-tap",
    "virtio-rnd", "dummy",
})
# fmt: on
_EMULATIONS = {
    "v0.2.0": _EVERYWHERE,
    "head": _EVERYWHERE | {"e1000", "fbuf"},
    "hyperkit": _EVERYWHERE | {"virtio-9p", "virtio-sock", "virtio-vpnkit"},
}

_EX_USAGE = 64
_ULONG_MAX = 2**64 - 1
_SHIFTS = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}


@dataclass(frozen=True, slots=True)
class Device:
    """What ``-s`` puts into a PCI slot; *config* is all after the second comma, None where there is none."""

    bus: int
    slot: int
    function: int
    emulation: str
    config: str | None = None


@dataclass(frozen=True, slots=True)
class Firmware:
    """What ``-f kexec`` says; a part that was left out is empty."""

    kernel: str
    initrd: str = ""
    cmdline: str = ""


@dataclass(frozen=True, slots=True)
class CommandLine:
    """All that a command line says, in order of slots and with the defaults in it.

    Attributes:
        program: the base name of argv[0], which messages begin with.
        cpus: as given; whether it can be is seen only once the machine is made.
        memory: bytes.
        uuid: as given, None where it was not.
        devices: by bus, slot and function.
        com: the backend of ``COM1`` and ``COM2``, where they were given; None is a device without one.
    """

    program: str
    firmware: Firmware | None
    cpus: int = 1
    memory: int = 256 << 20
    acpi: bool = False
    utc: bool = False
    print_mac: bool = False
    pidfile: str | None = None
    gdb_port: int = 0
    uuid: str | None = None
    devices: tuple[Device, ...] = ()
    com: Mapping[str, str | None] = field(default_factory=dict)


class Ended(Exception):
    """The program ends while it reads its command line.

    Attributes:
        code: the exit code.
        stdout: what it printed.
        stderr: what it said on its standard error.
    """

    def __init__(self, code: int, *, stdout: str = "", stderr: str = "") -> None:
        super().__init__(code, stdout, stderr)
        self.code = code
        self.stdout = stdout
        self.stderr = stderr


class NotSimulated(Exception):
    """A stand-in cannot do what xhyve could; the message says what."""


def parse(argv: Sequence[str], build: Build) -> CommandLine:
    """Read a command line, *argv[0]* included, from left to right.

    Raises:
        Ended: at the first option that ends the program, or for want of something to boot.
        NotSimulated: at a firmware that no stand-in has.
    """
    line = CommandLine(_basename(argv[0] if argv else ""), firmware=None)
    try:
        for letter, argument in getopt(argv[1:], _OPTIONS[build]):
            line = _act(line, letter, argument, build)
    except BadOption as wrong:
        raise Ended(1, stderr=f"{line.program}: {wrong}\n{usage(line.program, build)}") from None
    if line.firmware is None:
        raise Ended(1, stderr=usage(line.program, build))
    return line


def parse_memory(text: str) -> int | None:
    """The bytes that ``-m`` asks for; None where it is no size."""
    read = strtoul(text)
    if read is None:
        return None
    number, rest, overflows = read
    if not rest:
        # strtoul's overflow goes unseen here: the biggest number is a size like any other.
        return number << 20 if number < 1 << 20 else number
    # Of what follows the number one letter is looked at.
    shift = _SHIFTS.get(rest[0].lower() if rest[0].isascii() else "")
    if shift is None or overflows or number << shift > _ULONG_MAX:
        return None
    return number << shift


def _act(line: CommandLine, letter: str, argument: str, build: Build) -> CommandLine:
    changes: dict[str, Any] = {}
    if letter in _FLAGS:
        changes[_FLAGS[letter]] = True
    elif letter in _TEXTS:
        changes[_TEXTS[letter]] = argument
    elif letter in _NUMBERS:
        changes[_NUMBERS[letter]] = atoi(argument)
    match letter:
        case "f":
            changes["firmware"] = _firmware(argument, build)
        case "l":
            changes = _lpc(line, argument)
        case "m":
            changes["memory"] = parse_memory(argument)
            if changes["memory"] is None:
                raise Ended(_EX_USAGE, stderr=f"{line.program}: invalid memsize '{argument}'\n")
        case "s":
            device = _slot(line, argument, build)
            changes["devices"] = tuple(sorted((*line.devices, device), key=_address))
        case "v":
            raise Ended(0, stderr=version(line.program, build))
        case "h":
            raise Ended(0, stderr=usage(line.program, build))
    return replace(line, **changes)


def _firmware(text: str, build: Build) -> Firmware:
    # Only the start of the kind is looked at: kexecfoo is kexec.
    if not text.startswith("kexec"):
        raise NotSimulated(f"-f {text}")
    parts = text.split(",", 3)[1:]
    if build == "hyperkit":
        # Parts at the end may be left out.
        parts = [*parts, "", "", ""][:3]
    if len(parts) != 3:
        # Misspelt, as it was until after the release.
        raise Ended(1, stderr=f"Invalid {'firmare' if build == 'v0.2.0' else 'firmware'} argument\n")
    return Firmware(*parts)


def _lpc(line: CommandLine, text: str) -> dict[str, Any]:
    name, comma, rest = text.partition(",")
    backend = rest if comma else None
    if name.upper() in {"COM1", "COM2"}:
        return {"com": {**line.com, name.upper(): backend}}
    raise Ended(_EX_USAGE, stderr=f"{line.program}: invalid lpc device configuration '{text}'\n")


def _slot(line: CommandLine, text: str, build: Build) -> Device:
    where, _, what = text.partition(",")
    emulation, comma, config = what.partition(",")
    match scan_decimals(where, ":", 3):
        case [bus, slot, function]:
            pass
        case [slot, function]:
            bus = 0
        case [slot]:
            bus = function = 0
        case _:
            bus = slot = function = -1
    if "," not in text or bus not in range(256) or slot not in range(32) or function not in range(8):
        raise Ended(1, stderr=f'Invalid PCI slot info field "{text}"\n')
    if any(_address(device) == (bus, slot, function) for device in line.devices):
        raise Ended(1, stderr=f"pci slot {slot}:{function} already occupied!\n")
    if emulation not in _EMULATIONS[build]:
        raise Ended(1, stderr=f'pci slot {slot}:{function}: unknown device "{emulation}"\n')
    return Device(bus, slot, function, emulation, config if comma else None)


def _address(device: Device) -> tuple[int, int, int]:
    return device.bus, device.slot, device.function


def _basename(path: str) -> str:
    """That of basename(3), which has a name for the root and for nothing at all."""
    if not path:
        return "."
    return path.rstrip("/").rpartition("/")[2] or "/"
