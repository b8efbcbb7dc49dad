"""What an exported image consists of: the keys of its manifest, and the size and the SHA-256 of each file.

Two exports of one image have the same description, so that a host finds out without any file whether it has the image.
Another person may have written a description: no name or path in it is one of a file of this host.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.image import IMAGE_NAME

FORMAT = 1
"""The version of the format; a change that an older plugin cannot read raises it."""

KEYS = (
    "name", "arch", "cmdline", "user", "password", "host_keys", "cpus", "memory", "cpu", "firmware", "distro",
    "version", "init", "made",
)  # fmt: skip
"""The keys of a manifest that are exported as they are; the others name files, or follow from them."""

DISK, KERNEL, INITRD, KEY = "disk", "kernel", "initrd", "key"
MOST_BYTES = 1 << 20
"""A description is smaller than this, in bytes."""

_MOST_DISKS = 17
_MOST_SIZE = 1 << 46
_DIGITS = 16
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A file of an exported image.

    Attributes:
        sha256: its SHA-256, in hexadecimal.
        size: its size in bytes, holes included.
    """

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class ExportedImage:
    """The description of an exported image.

    Attributes:
        manifest: keys of its manifest, of `KEYS`.
        base: the name of the image below it; None if it is not a layer.
        formats: the format of the disk, of the file that it is based on, and so on.
        files: the disk and the files below it, by `disk_name`, and the kernel, the initial RAM disk and the private
            key, as far as the image has them.
    """

    manifest: Mapping[str, Any]
    base: str | None
    formats: Sequence[str]
    files: Mapping[str, ExportedFile]

    @property
    def name(self) -> str:
        """The image's name."""
        return str(self.manifest["name"])

    @property
    def key(self) -> str:
        """A digest of the description, and so of all files."""
        content = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:_DIGITS]

    def with_name(self, name: str) -> ExportedImage:
        """The same image by another name."""
        return ExportedImage({**self.manifest, "name": name}, self.base, self.formats, self.files)

    def to_dict(self) -> dict[str, Any]:
        """This object as plain data, for a JSON file."""
        return {
            "format": FORMAT,
            "manifest": dict(self.manifest),
            "base": self.base,
            "formats": list(self.formats),
            "files": {name: [file.sha256, file.size] for name, file in sorted(self.files.items())},
        }

    @classmethod
    def from_dict(cls, content: Any) -> Self:
        """The object from which `to_dict` made *content*.

        Raises:
            ImageError: it has another version, or a value is impossible. The manifest's values are checked when the
                manifest is read.
        """
        version = content.get("format") if isinstance(content, dict) else None
        if isinstance(version, int) and version != FORMAT:
            raise ImageError(
                f"the exported image has version {version} of the format; this pytest-xhyve reads version {FORMAT}\n"
                "  use the same version of pytest-xhyve on both hosts"
            )
        try:
            files = {name: ExportedFile(sha256, size) for name, (sha256, size) in content["files"].items()}
            image = cls(content["manifest"], content["base"], tuple(content["formats"]), files)
            image._check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ImageError(f"the description of the exported image is not valid: {error}") from error
        return image

    def _check(self) -> None:
        disks = {disk_name(number) for number in range(len(self.formats))}
        problems = {
            "manifest": not isinstance(self.manifest, dict) or not set(self.manifest) <= set(KEYS),
            "name": not isinstance(self.manifest.get("name"), str) or not IMAGE_NAME.fullmatch(self.manifest["name"]),
            # Only the name of a password is exported, never the password.
            "password": self.manifest.get("password") is not None,
            "base": self.base is not None and not (isinstance(self.base, str) and IMAGE_NAME.fullmatch(self.base)),
            "formats": not 0 < len(self.formats) <= _MOST_DISKS
            or any(each != "qcow2" for each in self.formats[:-1])
            or self.formats[-1] not in ("raw", "qcow2"),
            "files": not disks <= set(self.files) <= disks | {KERNEL, INITRD, KEY}
            or not all(_is_valid(file) for file in self.files.values()),
        }
        wrong = [name for name, is_wrong in problems.items() if is_wrong]
        if wrong:
            raise ValueError(", ".join(wrong))


def disk_name(number: int) -> str:
    """The name of a disk's file *number*, from the top: ``disk``, ``a``, ``b`` and so on.

    A layer names the file below it. A name of one character fits where another one was.
    """
    return DISK if number == 0 else chr(ord("a") + number - 1)


def parse_description(text: bytes) -> ExportedImage:
    """The description that *text*, JSON, contains.

    Raises:
        ImageError: it is not a valid description.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ImageError("the description of the exported image is not valid JSON: it is damaged or cut off") from error
    return ExportedImage.from_dict(content)


def _is_valid(file: ExportedFile) -> bool:
    return (
        isinstance(file.sha256, str)
        and _SHA256.fullmatch(file.sha256) is not None
        and type(file.size) is int
        and 0 < file.size < _MOST_SIZE
    )
