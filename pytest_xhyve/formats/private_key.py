"""Whether a file is a private key that can be used without a passphrase, found out without a library for keys."""

from __future__ import annotations

import binascii
import re
import struct
from base64 import b64decode
from pathlib import Path

# A key has a few thousand bytes at most.
_LONGEST = 1 << 16
_PEM = re.compile(
    rb"-----BEGIN (?P<kind>(?:[A-Z0-9]+ )?PRIVATE KEY)-----\s(?P<body>.*?)-----END (?P=kind)-----", re.DOTALL
)
# PROTOCOL.key in OpenSSH's sources.
_OPENSSH = b"openssh-key-v1\0"


def find_unusable(path: Path) -> str | None:
    """Why nobody can log in with the key at *path*, for a person, and what to do; None when nothing speaks against it.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        text = file.read(_LONGEST)
    found = _PEM.search(text)
    if found is None:
        if re.match(rb"(ssh|ecdsa|sk)-\S+ ", text):
            return f"is a public key; name the private one{', ' + path.stem if path.suffix == '.pub' else ''}"
        if text.startswith(b"PuTTY-User-Key-File"):
            return "is a key of PuTTY's; `puttygen KEY -O private-openssh -o NEW` makes one of OpenSSH's of it"
        return "is no private key; `ssh-keygen -t ed25519 -N ''` makes one"
    body = found["body"]
    if found["kind"] == b"ENCRYPTED PRIVATE KEY" or b"ENCRYPTED" in body:
        return _locked()
    try:
        # What stands before a blank line are headers (RFC 1421).
        decoded = b64decode(b"".join(body.rpartition(b"\n\n")[2].split()), validate=True)
    except binascii.Error:
        return "is damaged: it is no base64; copy the file again"
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
        return "is damaged: what is inside is no key of OpenSSH's; copy the file again"
    return None if cipher == b"none" else _locked()


def _locked() -> str:
    return (
        "is locked by a passphrase, and nobody is there to type it; make a key without one for guests "
        "(`ssh-keygen -t ed25519 -N ''`), or take it off a copy of this one (`ssh-keygen -p -f COPY`)"
    )
