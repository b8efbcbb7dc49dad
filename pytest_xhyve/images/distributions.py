"""The addresses of images: those of distributions by name, and any other with its checksum."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

from pytest_xhyve.images.yaml_file import load_mapping
from pytest_xhyve.model.architecture import ARM64, X86_64
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.values import short_repr, suggest

LIST = Path(__file__).with_name("distributions.yaml")
"""The list of the package."""

_SCHEMES = ("https", "http", "file")
_KEYS = ("url", "sums", "signature", "keyring")
_DIGITS = {"sha256": 64, "sha512": 128}
_KEY_DIGITS = 16
# Docker, Debian and macOS name the architectures in their own way.
_MACHINES = {word: each.name for each in (X86_64, ARM64) for word in each.also}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the disk of an image is, and what it is checked against.

    Attributes:
        name: the image's name.
        url: the disk.
        checksum: kind and digest, if they are stated; else the file *sums* has them.
        sums: the address of the file of checksums, or None.
        signature: the address of that file's detached signature, ``inline``, or None.
        keyring: the file with the keys that may have signed it, or None.
    """

    name: str
    url: str
    checksum: tuple[str, str] | None = None
    sums: str | None = None
    signature: str | None = None
    keyring: Path | None = None

    @property
    def file(self) -> str:
        """The name of the disk's file."""
        return urlsplit(self.url).path.rpartition("/")[2]

    @property
    def key(self) -> str:
        """The name under which it is kept: a pulled name stays the same if its address changes."""
        named = self.name if self.checksum is None else f"{self.url}#{self.checksum}"
        return hashlib.sha256(named.encode()).hexdigest()[:_KEY_DIGITS]


def is_address(text: str) -> bool:
    """Whether *text* is meant as an address, and not as a name or a path."""
    return re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None


def parse_address(text: str) -> Address:
    """The address ``https://HOST/FILE#sha256=DIGEST``.

    Raises:
        ConfigurationError: *text* is not an address with a checksum.
    """
    url, fragment = urldefrag(text)
    parts = urlsplit(url)
    kind, _, digest = fragment.partition("=")
    if parts.scheme not in _SCHEMES:
        raise ConfigurationError(f"{short_repr(text)}: the plugin downloads by {', '.join(_SCHEMES)} only")
    if parts.password is not None:
        raise ConfigurationError(f"{parts.hostname}: reports show addresses, so an address cannot have a password")
    name = parts.path.rpartition("/")[2]
    if not name:
        raise ConfigurationError(f"{short_repr(text)} names no file")
    if kind not in _DIGITS or not re.fullmatch(rf"[0-9a-f]{{{_DIGITS[kind]}}}", digest.lower()):
        raise ConfigurationError(
            f"{short_repr(text)} has no checksum, so another file in its place would not be noticed\n"
            "  append #sha256= and the 64 digits, or #sha512= and the 128 digits, that its publisher states"
        )
    return Address(_name_of(name), url, (kind, digest.lower()))


def _name_of(file: str) -> str:
    stem = re.sub(r"(\.(qcow2|img|raw|vmdk|vdi|vhdx?|xz|zst|gz))+$", "", file)
    return re.sub(r"[^A-Za-z0-9.]+", "-", stem).strip("-.")[:48] or "disk"


def read_distributions(own: Path | None) -> Mapping[str, Any]:
    """All names and their entries; those of the project's list *own* come before those of the package.

    Raises:
        ConfigurationError: the project's list is invalid.
    """
    found = load_mapping(LIST, "list of distributions", "debian-12: …")
    if own is None:
        return found
    more = load_mapping(own, "list of distributions", f"ours: {{{X86_64.name}: {{url: …, sums: SHA256SUMS}}}}")
    for name, entry in more.items():
        if not isinstance(entry, dict) or not entry:
            raise ConfigurationError(f"{own}: {name}: expected a mapping of architectures, such as {X86_64.name}")
        for arch, values in entry.items():
            _check_entry(f"{own}: {name}: {arch}", values)
    return {**found, **more}


def _check_entry(where: str, values: Any) -> None:
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise ConfigurationError(f"{where}: expected a mapping of {', '.join(_KEYS)} to texts")
    for key in values:
        if key not in _KEYS:
            raise ConfigurationError(f"{where}: unknown key {short_repr(key)}{suggest(str(key), _KEYS)}")
    if "url" not in values or "sums" not in values:
        raise ConfigurationError(f"{where}: missing {'url' if 'url' not in values else 'sums'}")
    if urlsplit(values["url"]).scheme not in _SCHEMES:
        raise ConfigurationError(f"{where}: url: the plugin downloads by {', '.join(_SCHEMES)} only")


def find_distribution(name: str, known: Mapping[str, Any], machine: str | None = None) -> Address | None:
    """The address of the distribution *name* for the architecture *machine*; that of this host if it is None.

    Raises:
        ConfigurationError: the distribution is known, but not for that architecture.
    """
    if name not in known:
        return None
    own = (machine or platform.machine()).lower()
    arch = _MACHINES.get(own, own)
    entry = known[name].get(arch)
    if entry is None:
        raise ConfigurationError(f"{name} is known for {', '.join(known[name])} only, and guests here are {arch}")
    url = entry["url"]
    signature = entry.get("signature")
    return Address(
        name,
        url,
        None,
        urljoin(url, entry["sums"]),
        signature if signature in (None, "inline") else urljoin(url, signature),
        Path(entry["keyring"]).expanduser() if "keyring" in entry else None,
    )
