"""Devices and boot loaders as vfkit reads them (pkg/config/virtio.go, bootloader.go and config.go)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from standin.vfkit.flags import Flags, Invalid, failed, parse_uint, trim_quotes

_QCOW2 = b"QFI\xfb"
_MAX_INT32 = 2**31 - 1
_MAX_UINT32 = 2**32 - 1

Option = tuple[str, str]


@dataclass(frozen=True)
class Device:
    """A device, or a boot loader.

    Attributes:
        kind: the first word.
        options: the others, those with a value and those without one.
    """

    kind: str
    options: dict[str, str] = field(default_factory=dict)


def read_bootloader(flags: Flags) -> Device:
    """The boot loader of the command line.

    Raises:
        Ended: there is none, or vfkit does not know it.
    """
    if flags.kernel or flags.kernel_cmdline or flags.initrd:
        options = {"kernel": flags.kernel, "initrd": flags.initrd, "cmdline": flags.kernel_cmdline}
        return Device("linux", options)
    if not flags.bootloader:
        raise failed("empty option list in --bootloader command line argument")
    kind, *words = flags.bootloader
    if kind not in _BOOTLOADERS:
        raise failed(f"unknown bootloader type: {kind}")
    known, title = _BOOTLOADERS[kind]
    options = {}
    for key, value in _options(words):
        if key not in known:
            raise failed(f"unknown option for {title} bootloaders: {key}")
        if key == "create" and value:
            raise failed(f"unexpected value for EFI bootloader 'create' option: {value}")
        options[key] = trim_quotes(value) if key == "cmdline" else value
    return Device(kind, options)


def check_timesync(text: str) -> None:
    """Check the value of ``--timesync``.

    Raises:
        Ended: vfkit does not take it.
    """
    if not text:
        return
    port = 0
    for key, value in _options(text.split(",")):
        if key != "vsockPort":
            raise failed(f"unknown option for timesync parameter: {key}")
        port = _decimal(value)
    if port == 0:
        raise failed("missing 'vsockPort' option for timesync parameter")


def read_device(text: str) -> Device:
    """The device that ``--device`` *text* describes. There are no quotes here: each comma separates.

    Raises:
        Ended: vfkit does not take it.
    """
    kind, *words = text.split(",")
    if kind not in _DEVICES:
        raise failed(f"unknown device type: {kind}")
    options = _options(words)
    _DEVICES[kind](kind, options)
    return Device(kind, dict(options))


def _options(words: Sequence[str]) -> list[Option]:
    return [(key, value) for key, _, value in (word.partition("=") for word in words if word)]


def _no_options(kind: str, options: Sequence[Option]) -> None:
    if options:
        shown = " ".join(f"{{{key} {value}}}" for key, value in options)
        raise failed(f"unknown options for {kind} devices: [{shown}]")


def _only(*known: str, title: str = "{kind} devices") -> Callable[[str, Sequence[Option]], None]:
    def check(kind: str, options: Sequence[Option]) -> None:
        for key, _ in options:
            if key not in known:
                raise failed(f"unknown option for {title.format(kind=kind)}: {key}")

    return check


def _disk(kind: str, options: Sequence[Option], also: tuple[str, ...] = ()) -> None:
    for key, value in options:
        if key in also:
            continue
        if key == "type" and value not in ("", "image", "dev"):
            raise failed(f"unexpected value for disk 'type' option: {value}")
        if key == "readonly" and value:
            raise failed(f"unexpected value for virtio-blk 'readonly' option: {value}")
        if key not in ("path", "type", "readonly"):
            raise failed(f"unknown option for {kind} devices: {key}")


def _virtio_blk(kind: str, options: Sequence[Option]) -> None:
    _disk(kind, options, ("deviceId",))
    path = dict(options).get("path", "")
    try:
        with Path(path).open("rb") as file:
            header = file.read(4)
    except OSError as error:
        # Go's words for the two errors that tests make.
        reason = {2: "no such file or directory", 13: "permission denied"}.get(error.errno or 0, str(error.strerror))
        raise failed(f"failed to open file {path}: open {path}: {reason}") from error
    if not header:
        raise failed(f"failed to read the header of file {path}: EOF")
    if header == _QCOW2:
        raise failed("vfkit does not support qcow2 image format")


def _nbd(kind: str, options: Sequence[Option]) -> None:
    for key, value in options:
        if key == "timeout":
            _decimal(value, "ParseInt", _MAX_INT32)
        elif key == "sync" and value not in ("full", "none"):
            raise failed(f"invalid sync mode: {value}, must be 'full' or 'none'")
        elif key == "readonly" and value:
            raise failed(f"unexpected value for virtio-blk 'readonly' option: {value}")
        elif key not in ("deviceId", "sync", "uri", "readonly"):
            raise failed(f"unknown option for {kind} devices: {key}")


def _virtio_net(kind: str, options: Sequence[Option]) -> None:
    for key, value in options:
        _check_card_option(kind, key, value)
    given = [key for key, _ in options]
    path = any(value for key, value in options if key in ("path", "unixSocketPath"))
    if "type" in given and not path:
        raise failed("'type' option requires 'path' to be specified")
    behind_type = [key for key in given if key in ("path", "offloading")]
    if "type" not in given and behind_type:
        raise failed(f"'{behind_type[0]}' option requires 'type' to be specified")
    _one_of({"nat": "nat" in given, "fd": "fd" in given, "unixSocketPath": path}, "{} or {} or {}")


def _check_card_option(kind: str, key: str, value: str) -> None:
    match key:
        case "nat" if value:
            raise failed(f"unexpected value for virtio-net 'nat' option: {value}")
        case "mac":
            _check_mac(value)
        case "fd" if not re.fullmatch(r"[+-]?[0-9]+", value):
            raise failed(f'strconv.Atoi: parsing "{value}": invalid syntax')
        case "fd" if not 0 <= int(value) <= _MAX_INT32:
            raise failed(f"invalid file descriptor: {int(value)}")
        case "type" if value != "unixgram":
            raise failed(f"unsupported virtio-net type: {value} (only 'unixgram' is supported)")
        case "vfkitMagic" if value not in ("on", "off"):
            raise failed(f"invalid value for vfkitMagic: {value} (expected on/off)")
        case "offloading" if value != "off":
            raise failed(f"invalid value for offloading: {value} (only 'off' is supported)")
        case _ if key not in ("nat", "fd", "type", "vfkitMagic", "offloading", "path", "unixSocketPath"):
            raise failed(f"unknown option for {kind} devices: {key}")


def _virtio_serial(kind: str, options: Sequence[Option]) -> None:
    _only("logFilePath", "stdio", "pty")(kind, options)
    given = dict(options)
    if given.get("stdio"):
        raise failed(f"unexpected value for virtio-serial 'stdio' option: {given['stdio']}")
    kinds = {"logFilePath": bool(given.get("logFilePath")), "stdio": "stdio" in given, "pty": "pty" in given}
    _one_of(kinds, "{}, {} or {}")


def _one_of(given: dict[str, bool], all_of_them: str) -> None:
    names = [f"'{name}'" for name, is_given in given.items() if is_given]
    if len(names) > 1:
        raise failed(f"{names[0]} and {names[1]} cannot be set at the same time")
    if not names:
        raise failed(f"one of {all_of_them.format(*(repr(name) for name in given))} must be set")


def _virtio_vsock(kind: str, options: Sequence[Option]) -> None:
    _only("socketURL", "port", "listen", "connect")(kind, options)
    for key, value in options:
        if key == "port":
            _decimal(value)


def _virtio_input(kind: str, options: Sequence[Option]) -> None:
    for key, value in options:
        if key not in ("pointing", "keyboard"):
            raise failed(f"unknown option for {kind} devices: {key}")
        if value:
            raise failed(f"unexpected value for {kind} {key} option: {value}")
    if not options:
        raise failed(f"unknown option for {kind} devices: ")


def _virtio_gpu(kind: str, options: Sequence[Option]) -> None:
    sizes = {"width": 0, "height": 0}
    for key, value in options:
        if key not in sizes:
            raise failed(f"unknown option for {kind} devices: {key}")
        if not re.fullmatch(r"\+?0*[1-9][0-9]*", value):
            raise failed(f"invalid value for {kind} {key}: {value}")
        sizes[key] = int(value)
    if options and not all(sizes.values()):
        size = f"{sizes['width']}x{sizes['height']}"
        raise failed(f"invalid dimensions for virtio-gpu device resolution: {size}")


def _check_mac(text: str) -> None:
    """Six, eight or twenty octets, as net.ParseMAC reads them."""
    octets = re.fullmatch(r"[0-9a-fA-F]{2}(?:([:-])[0-9a-fA-F]{2}(?:\1[0-9a-fA-F]{2})*)", text)
    dotted = re.fullmatch(r"[0-9a-fA-F]{4}(?:\.[0-9a-fA-F]{4})+", text)
    if not ((octets or dotted) and len(re.sub(r"[^0-9a-fA-F]", "", text)) in (12, 16, 40)):
        raise failed(f"address {text}: invalid MAC address")


def _decimal(text: str, function: str = "ParseUint", largest: int = _MAX_UINT32) -> int:
    if not re.fullmatch(r"[0-9]+", text):
        raise failed(f'strconv.{function}: parsing "{text}": invalid syntax')
    try:
        return parse_uint(text.lstrip("0") or "0", largest)
    except Invalid as invalid:
        raise failed(str(invalid).replace("ParseUint", function)) from invalid


_BOOTLOADERS = {
    "efi": (("variable-store", "create"), "EFI"),
    "linux": (("kernel", "cmdline", "initrd"), "Linux"),
    "macos": (("machineIdentifierPath", "hardwareModelPath", "auxImagePath"), "macOS"),
}
_DEVICES: dict[str, Callable[[str, Sequence[Option]], None]] = {
    "rosetta": _only("mountTag", "install", "ignore-if-missing", title="rosetta share"),
    "nvme": _disk,
    "virtio-blk": _virtio_blk,
    "virtio-fs": _only("sharedDir", "mountTag"),
    "virtio-net": _virtio_net,
    "virtio-rng": _no_options,
    "virtio-serial": _virtio_serial,
    "virtio-vsock": _virtio_vsock,
    "usb-mass-storage": _disk,
    "virtio-input": _virtio_input,
    "virtio-gpu": _virtio_gpu,
    "virtio-balloon": _no_options,
    "nbd": _nbd,
}
