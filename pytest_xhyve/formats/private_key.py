"""Check whether a file is a private key without a passphrase, without a library for keys."""

from __future__ import annotations

import binascii
import re
import struct
from base64 import b64decode
from pathlib import Path

# A key has at most a few thousand bytes.
_MAX_BYTES = 1 << 16
_PEM = re.compile(
    rb"-----BEGIN (?P<kind>(?:[A-Z0-9]+ )?PRIVATE KEY)-----\s(?P<body>.*?)-----END (?P=kind)-----", re.DOTALL
)
# PROTOCOL.key in OpenSSH's sources.
_OPENSSH = b"openssh-key-v1\0"


def find_unusable(path: Path) -> str | None:
    """Why the plugin cannot log in with the key at *path*, and the fix, for a message; None if it probably can.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        text = file.read(_MAX_BYTES)
    found = _PEM.search(text)
    if found is None:
        if re.match(rb"(ssh|ecdsa|sk)-\S+ ", text):
            return f"is a public key; give the private key{', ' + path.stem if path.suffix == '.pub' else ''}"
        if text.startswith(b"PuTTY-User-Key-File"):
            return "is a key in PuTTY's format; convert it with `puttygen KEY -O private-openssh -o NEW`"
        return "is not a private key; make one with `ssh-keygen -t ed25519 -N ''`"
    body = found["body"]
    if found["kind"] == b"ENCRYPTED PRIVATE KEY" or b"ENCRYPTED" in body:
        return _locked()
    try:
        # The lines before a blank line are headers (RFC 1421).
        decoded = b64decode(b"".join(body.rpartition(b"\n\n")[2].split()), validate=True)
    except binascii.Error:
        return "is damaged: it is not base64; copy the file again"
    if found["kind"] != b"OPENSSH PRIVATE KEY":
        return None
    return _find_unusable_openssh(decoded)


def _find_unusable_openssh(decoded: bytes) -> str | None:
    try:
        (length,) = struct.unpack_from(">I", decoded, len(_OPENSSH))
    except struct.error:
        length = 0
    at = len(_OPENSSH) + 4
    cipher = decoded[at : at + length]
    if not decoded.startswith(_OPENSSH) or not cipher:
        return "is damaged: its content is not an OpenSSH key; copy the file again"
    return None if cipher == b"none" else _locked()


def _locked() -> str:
    return (
        "has a passphrase, which the plugin cannot enter; make a key for guests without a passphrase "
        "(`ssh-keygen -t ed25519 -N ''`), or remove the passphrase from a copy of this key (`ssh-keygen -p -f COPY`)"
    )
