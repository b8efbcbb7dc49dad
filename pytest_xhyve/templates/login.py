"""What a saved guest accepts as a login, to compare it with a key."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from pytest_xhyve.model.image import Image

PASSWORD = "password"  # noqa: S105  # not a password, but a word for it


def describe_login(image: Image) -> str:
    """The fingerprint of the key of *image*, `PASSWORD`, or nothing if neither is known."""
    if image.key is not None:
        return fingerprint(image.key)
    return PASSWORD if image.password is not None else ""


def fingerprint(key: Path) -> str:
    """The fingerprint of the private key in the file *key*, as ``ssh-keygen -l`` prints it; empty if unreadable."""
    try:
        data = key.read_bytes()
        load = load_ssh_private_key if b"OPENSSH" in data[:100] else load_pem_private_key
        public = load(data, password=None).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return ""
    digest = hashlib.sha256(base64.b64decode(public.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
