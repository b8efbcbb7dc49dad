"""Read a manifest: the YAML file that describes an image and how to log in to its guests."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pytest_xhyve.formats.public_key import parse_public_key
from pytest_xhyve.formats.qcow2 import MAGIC
from pytest_xhyve.images.yaml_file import load_mapping
from pytest_xhyve.model.architecture import ARCHITECTURES, architecture_of, find_architecture, host_architecture
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.image import Base, Image, to_image_name
from pytest_xhyve.model.secret import Secret
from pytest_xhyve.model.values import (
    Firmware,
    parse_keys,
    parse_memory,
    parse_path,
    parse_positive_int,
    parse_user,
    short_repr,
    suggest,
)

CPU_LEVELS = tuple(level for each in ARCHITECTURES.values() for level in each.emulated_cpus)
FORMATS = ("raw", "qcow2")

_NEEDED = ("kernel", "cmdline", "user", "key", "host_keys")
DEFAULT_MEMORY = 512 << 20
"""Bytes of memory of a guest whose manifest states none."""

_DEFAULTS: Mapping[str, Any] = {
    "size": None,
    "sha256": None,
    "initrd": None,
    "key": None,
    "cpus": 1,
    "memory": DEFAULT_MEMORY,
    "firmware": None,
    "distro": None,
    "version": None,
    "init": None,
    "extends": None,
    "made": {},
}
_OF_DIRECT_BOOT = {"kernel": None, "cmdline": ""}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a user states of an image; each key but ``disk`` may be left out, and is then found out.

    Attributes:
        path: the file that this was read from; None for a disk without a manifest.
        values: the keys that are stated, and their values; paths are absolute.
    """

    path: Path | None
    values: Mapping[str, Any]

    @classmethod
    def of_disk(cls, disk: Path) -> Manifest:
        """The manifest of a disk of which nothing else is stated."""
        return cls(None, {"disk": disk.absolute()})

    @property
    def disk(self) -> Path:
        path: Path = self.values["disk"]
        return path

    @property
    def name(self) -> str:
        """The image's name, or the name of the manifest's file or of the disk's."""
        return str(self.values.get("name") or (image_name(self.disk) if self.path is None else self.path.stem))

    @property
    def arch(self) -> str:
        """The name of the architecture; this host's if none is stated."""
        return str(self.values.get("arch") or host_architecture().name)

    @property
    def missing(self) -> tuple[str, ...]:
        """The keys that a guest needs and that are not stated; a user other than root may have a password instead."""
        needed = [key for key in _NEEDED if key not in self.values]
        if "firmware" in self.values:
            # The boot loader has them.
            needed = [key for key in needed if key not in _OF_DIRECT_BOOT]
        if "key" in needed and (self.values.get("user", "root") != "root" or "password" in self.values):
            needed.remove("key")
        return tuple(needed)

    @property
    def needs_preparation(self) -> bool:
        """Whether something has to be found out, or to be written into a layer over the disk."""
        return bool(self.missing) or "seed" in self.values

    @property
    def own_user(self) -> str | None:
        """The user who logs in by a key or password of the disk's own; None for root by the plugin's key."""
        user: str | None = self.values.get("user")
        if "key" in self.values:
            return user or "root"
        return user if user is not None and (user != "root" or "password" in self.values) else None

    @property
    def needs_password(self) -> bool:
        """Whether the user can log in only by a password, which is not stated."""
        return self.own_user is not None and "key" not in self.values and self.values.get("password") is None

    def with_values(self, **values: Any) -> Manifest:
        """This manifest with other values."""
        return Manifest(self.path, {**self.values, **values})

    def image(self) -> Image:
        """The image, if nothing is missing.

        Raises:
            ConfigurationError: a key is missing.
        """
        if self.missing:
            raise ConfigurationError(
                f"{self.path or self.disk}: missing {', '.join(self.missing)}\n"
                "  a manifest needs at least disk, kernel, cmdline, user, key and host_keys; with firmware, no kernel "
                "and cmdline"
            )
        architecture = architecture_of(self.arch)
        defaults = {"name": self.name, "arch": self.arch, "cpu": architecture.default_cpu}
        values = {**defaults, **_DEFAULTS, **_OF_DIRECT_BOOT, "format": _format_of(self.disk), **self.values}
        values.pop("seed", None)
        return Image(manifest=self.path or self.disk, **values)


def read_manifest(path: Path) -> Image:
    """The image that the manifest at *path* describes completely.

    Raises:
        ConfigurationError: the file cannot be read, or is not a manifest, or a key is missing; the message names the
            file and the key.
    """
    return parse_manifest(path).image()


def as_manifest(image: Image) -> dict[str, Any]:
    """The keys of a manifest that describes *image* completely; paths are absolute."""
    content = {}
    for each in fields(image):
        value = getattr(image, each.name)
        if each.name in ("manifest", "password") or value in (None, ""):
            continue
        # Paths in the cache folder have ".." in them.
        content[each.name] = os.path.normpath(value) if isinstance(value, Path) else value
    if image.extends is not None:
        content["extends"] = {"image": image.extends.image, "sha256": list(image.extends.sha256)}
    # The password is not printed, but that there is one.
    own = {"password": None} if image.key is None else {}
    return content | {"host_keys": list(image.host_keys), "made": dict(image.made)} | own


def image_name(path: Path) -> str:
    """The name of the image that the disk at *path* becomes: the file's name without its endings."""
    stem = path.name
    while (shorter := Path(stem).stem) != stem and re.fullmatch(r"\.\w{1,6}", Path(stem).suffix):
        stem = shorter
    return to_image_name(stem)


def parse_manifest(path: Path) -> Manifest:
    """The manifest at *path*; keys may be missing.

    Raises:
        ConfigurationError: the file cannot be read, or is not a manifest; the message names the file and the key.
    """
    content = load_mapping(path, "manifest", f"disk: {path.stem}.img")
    absolute = path.absolute()
    values = parse_keys(content, _parsers(absolute.parent), str(path))
    if "disk" not in values:
        raise ConfigurationError(f"{path}: missing disk\n  a manifest names the disk that it describes")
    manifest = Manifest(absolute, values)
    _check_cpu(manifest, path)
    return manifest


def _parsers(folder: Path) -> Mapping[str, Callable[[Any], Any]]:
    """What checks and converts the value of each key; a path is relative to *folder*."""
    file = partial(_file, folder)
    return {
        "name": _text,
        "arch": _architecture,
        "disk": file,
        "format": _choice(*FORMATS),
        "size": parse_positive_int,
        "sha256": _sha256,
        "kernel": file,
        "initrd": file,
        "cmdline": _text,
        "user": lambda value: parse_user(_text(value)),
        "key": file,
        "password": _secret,
        "host_keys": _public_keys,
        "cpus": parse_positive_int,
        "memory": parse_memory,
        "cpu": _choice(*CPU_LEVELS),
        "firmware": _choice(*get_args(Firmware)),
        "distro": _text,
        "version": _text,
        "init": _text,
        "extends": _base,
        "made": _mapping,
    }


def _check_cpu(manifest: Manifest, path: Path) -> None:
    """Check that the architecture has the CPU that the manifest at *path* states."""
    cpu, levels = manifest.values.get("cpu"), architecture_of(manifest.arch).emulated_cpus
    if cpu is not None and cpu not in levels:
        raise ConfigurationError(f"{path}: cpu: {cpu!r} is not one of {', '.join(levels)}, which {manifest.arch} has")


def _file(folder: Path, value: Any) -> Path:
    return folder / parse_path(_text(value))


def _choice(*known: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            raise ConfigurationError(
                f"{short_repr(value)} is not one of {', '.join(known)}{suggest(str(value), known)}"
            )
        return value

    return parse


def _architecture(value: Any) -> str:
    found = find_architecture(value) if isinstance(value, str) else None
    if found is None:
        known = [word for each in ARCHITECTURES.values() for word in (each.name, each.debian)]
        raise ConfigurationError(f"{short_repr(value)} is not one of {', '.join(known)}{suggest(str(value), known)}")
    return found.name


def _format_of(disk: Path) -> str:
    """``qcow2`` or ``raw``, by the disk's first bytes; a disk that cannot be read is reported later."""
    try:
        with disk.open("rb") as file:
            return "qcow2" if file.read(len(MAGIC)) == MAGIC else "raw"
    except OSError:
        return "raw"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        hint = "; put it in quotes" if isinstance(value, bool | int | float) else ""
        raise ConfigurationError(f"expected text, not {short_repr(value)}{hint}")
    text = value.strip()
    if not text or re.search(r"[\x00-\x1f\x7f]", text):
        raise ConfigurationError(f"expected text on one line, not {short_repr(value)}")
    return text


def _secret(value: Any) -> Secret | None:
    """The password; None if the key has no value, so that the password comes from elsewhere."""
    if value is None:
        return None
    # The error does not show the value.
    if not isinstance(value, str) or not value or "\n" in value or "\0" in value:
        raise ConfigurationError("expected text on one line; put it in quotes")
    return Secret(value)


def _sha256(value: Any) -> str:
    text = _text(value).lower()
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ConfigurationError(f"{short_repr(value)} is not a SHA-256; `sha256sum DISK` prints its 64 digits")
    return text


def _public_keys(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ConfigurationError(f"expected a list of texts, the guest's public keys, not {short_repr(value)}")
    return tuple(parse_public_key(_text(item)) for item in value)


def _base(value: Any) -> Base:
    content = _mapping(value)
    digests = content.get("sha256")
    if content.keys() != {"image", "sha256"} or not isinstance(digests, list) or not digests:
        raise ConfigurationError("expected `image`, and `sha256` with the list of the digests of the files below")
    return Base(_text(content["image"]), tuple(_sha256(digest) for digest in digests))


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"expected a mapping, not {short_repr(value)}")
    return value
