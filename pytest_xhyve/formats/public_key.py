"""Read public keys from the lines of OpenSSH's ``.pub`` files (RFC 4253, section 6.6), without a library for keys."""

from __future__ import annotations

import binascii
import struct
from base64 import b64decode
from collections.abc import Iterator

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.values import short_repr, suggest

# For each type of host key that the plugin can check: the number of fields in its blob, including the type's name.
_FIELDS = {
    "ssh-ed25519": 2,
    "ssh-rsa": 3,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
}
_ED25519_BYTES = 32


def parse_public_key(text: str) -> str:
    """The type and the base64 of a key, without the comment.

    Args:
        text: ``ssh-ed25519 AAAA…``, with or without a comment.

    Raises:
        ConfigurationError: *text* is not such a key; the message names the invalid part.
    """
    parts = text.split(maxsplit=2)
    if len(parts) < 2:
        raise ConfigurationError(
            f"{short_repr(text)} is not a public key; copy a line of the guest's ssh_host_*_key.pub"
        )
    kind, encoded = parts[:2]
    if kind not in _FIELDS:
        raise ConfigurationError(
            f"{short_repr(kind)} is not a supported type of host key{suggest(kind, _FIELDS)} "
            f"(types: {', '.join(_FIELDS)})"
        )
    try:
        blob = b64decode(encoded, validate=True)
        fields = list(_split(blob))
    except (binascii.Error, ValueError, struct.error) as error:
        raise ConfigurationError(
            f"the base64 after {kind} is damaged or truncated ({short_repr(encoded)}); copy the whole line again"
        ) from error
    inside = fields[0].decode("ascii", "replace") if fields else ""
    if inside != kind:
        raise ConfigurationError(
            f"the line states {kind}, but the key in it is {short_repr(inside)}; copy the whole line again"
        )
    if len(fields) != _FIELDS[kind] or (kind == "ssh-ed25519" and len(fields[1]) != _ED25519_BYTES):
        raise ConfigurationError(f"the {kind} key has a wrong length; copy the whole line again")
    return f"{kind} {encoded}"


def _split(blob: bytes) -> Iterator[bytes]:
    """The strings in *blob*; each follows its length (RFC 4251, section 5)."""
    at = 0
    while at < len(blob):
        (length,) = struct.unpack_from(">I", blob, at)
        at += 4 + length
        if at > len(blob):
            raise ValueError("the blob ends in the middle of a string")
        yield blob[at - length : at]
