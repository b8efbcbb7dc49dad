"""Public keys as OpenSSH writes them into ``.pub`` files (RFC 4253, section 6.6), read without a library for keys."""

from __future__ import annotations

import binascii
import struct
from base64 import b64decode
from collections.abc import Iterator

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.values import short_repr, suggest

# Of each type that our side of SSH checks: how many fields its blob has, the word that says the type among them.
_FIELDS = {
    "ssh-ed25519": 2,
    "ssh-rsa": 3,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
}
_ED25519_BYTES = 32


def parse_public_key(text: str) -> str:
    """The type and the base64 of a key, without the comment behind them.

    Args:
        text: ``ssh-ed25519 AAAA…``, and perhaps a comment.

    Raises:
        ConfigurationError: it is no such key; the message says which part is wrong.
    """
    words = text.split(maxsplit=2)
    if len(words) < 2:
        raise ConfigurationError(f"{short_repr(text)} is no public key; copy a line of the guest's ssh_host_*_key.pub")
    kind, encoded = words[:2]
    if kind not in _FIELDS:
        raise ConfigurationError(
            f"{short_repr(kind)} is no type of a host key that can be checked{suggest(kind, _FIELDS)} "
            f"(types: {', '.join(_FIELDS)})"
        )
    try:
        blob = b64decode(encoded, validate=True)
        fields = list(_split(blob))
    except (binascii.Error, ValueError, struct.error) as error:
        raise ConfigurationError(
            f"the base64 behind {kind} is damaged or cut off ({short_repr(encoded)}); copy the whole line again"
        ) from error
    inside = fields[0].decode("ascii", "replace") if fields else ""
    if inside != kind:
        raise ConfigurationError(
            f"the key says {kind}, and inside it is {short_repr(inside)}; copy the whole line again"
        )
    if len(fields) != _FIELDS[kind] or (kind == "ssh-ed25519" and len(fields[1]) != _ED25519_BYTES):
        raise ConfigurationError(f"the {kind} key has another length than such keys have; copy the whole line again")
    return f"{kind} {encoded}"


def _split(blob: bytes) -> Iterator[bytes]:
    """The strings that *blob* is made of, each behind its length (RFC 4251, section 5)."""
    at = 0
    while at < len(blob):
        (length,) = struct.unpack_from(">I", blob, at)
        at += 4 + length
        if at > len(blob):
            raise ValueError("it ends in the middle of a string")
        yield blob[at - length : at]
