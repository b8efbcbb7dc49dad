"""The manifest: a YAML file that tells what an image is made of and how to log in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pytest_xhyve.errors import ConfigurationError
from pytest_xhyve.machine import DiskFormat
from pytest_xhyve.settings import nearest, parse_count, parse_size

ARCHITECTURES = ("x86_64",)
CPU_LEVELS = ("x86-64-v1", "x86-64-v2", "x86-64-v3")
FORMATS = ("raw", "qcow2")


@dataclass(frozen=True, slots=True)
class Image:
    """An image, as its manifest tells.

    Attributes:
        name: the word for it.
        manifest: the file that this was read from; the paths in it are relative to its folder.
        arch: the CPU's architecture, as ``uname -m`` has it.
        disk: the disk that is cloned, never written.
        format: ``raw`` or ``qcow2``.
        size: bytes of the disk's file, or None where the manifest does not tell.
        sha256: of the disk's file, in hexadecimal, or None.
        kernel: a bzImage.
        initrd: its initial RAM disk, or None.
        cmdline: the kernel's command line.
        user: who logs in.
        key: the private key to log in with.
        host_keys: the guest's public keys (``ssh-ed25519 AAAA…``); one of them must be shown.
        cpus: virtual CPUs where nobody asks for more.
        memory: bytes of memory, likewise.
        cpu: the x86-64 level that the userland needs (x86-64 psABI, section 3.1.1).
        made: how the image was made; for people, and to see when a recipe has changed.
    """

    name: str
    manifest: Path
    arch: str
    disk: Path
    format: DiskFormat
    size: int | None
    sha256: str | None
    kernel: Path
    initrd: Path | None
    cmdline: str
    user: str
    key: Path
    host_keys: tuple[str, ...]
    cpus: int
    memory: int
    cpu: str
    made: Mapping[str, Any] = field(default_factory=dict, compare=False)


def read_manifest(path: Path) -> Image:
    """The image that the manifest at *path* tells of.

    Raises:
        ConfigurationError: the file cannot be read, or is no manifest; the message names the key.
    """
    content = _load(path)
    folder = path.absolute().parent

    def text(value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise ConfigurationError(f"expected text, not {value!r}")
        return value

    def file(value: Any) -> Path:
        return folder / Path(text(value)).expanduser()

    def choice(*known: str) -> Callable[[Any], str]:
        def parse(value: Any) -> str:
            if value not in known:
                raise ConfigurationError(f"{value!r} is none of {', '.join(known)}")
            return str(value)

        return parse

    parsers: dict[str, Callable[[Any], Any]] = {
        "name": text,
        "arch": choice(*ARCHITECTURES),
        "disk": file,
        "format": choice(*FORMATS),
        "size": parse_count,
        "sha256": text,
        "kernel": file,
        "initrd": file,
        "cmdline": text,
        "user": text,
        "key": file,
        "host_keys": _texts,
        "cpus": parse_count,
        "memory": parse_size,
        "cpu": choice(*CPU_LEVELS),
        "made": _mapping,
    }
    values: dict[str, Any] = {
        "name": path.stem,
        "arch": "x86_64",
        "format": "raw",
        "size": None,
        "sha256": None,
        "initrd": None,
        "cpus": 1,
        "memory": 512 << 20,
        "cpu": "x86-64-v2",
        "made": {},
    }
    for key, value in content.items():
        if key not in parsers:
            raise ConfigurationError(f"{path}: unknown key {key!r}{nearest(str(key), parsers)}")
        try:
            values[key] = parsers[key](value)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {key}: {error}") from error
    missing = [key for key in parsers if key not in values]
    if missing:
        raise ConfigurationError(f"{path}: missing {', '.join(missing)}")
    return Image(manifest=path.absolute(), **values)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the manifest {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: a manifest is a mapping of keys to values")
    return content


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise ConfigurationError("expected a list of texts, at least one")
    return tuple(value)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"expected a mapping, not {value!r}")
    return value
