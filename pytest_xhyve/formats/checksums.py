"""Files of checksums, as distributions publish them."""

from __future__ import annotations

import re

# The digits of each kind (FIPS 180-4).
_DIGITS = {64: "sha256", 128: "sha512"}
_GNU = re.compile(r"^\\?([0-9a-fA-F]{64,128})(?: [ *](?:\./)?(.+))?$")
_BSD = re.compile(r"^(SHA256|SHA512) \((?:\./)?(.+)\) = ([0-9a-fA-F]{64,128})$")


def find_checksum(text: str, name: str) -> tuple[str, str] | None:
    """The checksum of the file *name* in *text*.

    The lines may be those of sha256sum(1) and sha512sum(1), those of BSD (``SHA256 (FILE) = …``), or one digest alone.

    Returns:
        ``sha256`` or ``sha512``, and the digest in lower case; the longer one if there are both. None if there is none.
    """
    found = set()
    lines = [line.strip() for line in text.splitlines()]
    for line in lines:
        if (bsd := _BSD.match(line)) is not None and bsd[2] == name:
            found.add((bsd[1].lower(), bsd[3].lower()))
        elif (gnu := _GNU.match(line)) is not None and (gnu[2] == name or (gnu[2] is None and len(lines) == 1)):
            found.add((_DIGITS.get(len(gnu[1]), ""), gnu[1].lower()))
    whole = [(kind, digest) for kind, digest in found if _DIGITS.get(len(digest)) == kind]
    return max(whole, key=lambda each: len(each[1]), default=None)
