"""SSH keys: the user's key that logs in to guests, and a host key for each image that is built."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from pytest_xhyve.host.locks import SHORT_SECONDS, locked
from pytest_xhyve.model.errors import XhyveError


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An Ed25519 key pair.

    Attributes:
        private: in OpenSSH's format (PROTOCOL.key in its sources).
        public: a line for authorized_keys, without a comment.
        seed: the private key's 32 bytes (RFC 8032).
        point: the public key's 32 bytes.
    """

    private: bytes
    public: str
    seed: bytes
    point: bytes

    @property
    def dropbear(self) -> bytes:
        """The private key in Dropbear's format (src/ed25519.c, buf_put_ed25519_priv_key, in its sources)."""
        fields = (b"ssh-ed25519", self.seed + self.point)
        return b"".join(struct.pack(">I", len(field)) + field for field in fields)

    @classmethod
    def generate(cls) -> KeyPair:
        """A new pair, from the system's random numbers."""
        key = Ed25519PrivateKey.generate()
        return cls._of(key, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))

    @classmethod
    def load(cls, private: bytes) -> KeyPair:
        """The pair of a private key in OpenSSH's format.

        Raises:
            ValueError: *private* is not such a key, not Ed25519, or encrypted.
        """
        key = load_ssh_private_key(private, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("not an Ed25519 key")
        return cls._of(key, private)

    @classmethod
    def _of(cls, key: Ed25519PrivateKey, private: bytes) -> KeyPair:
        return cls(
            private=private,
            public=key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
            seed=key.private_bytes_raw(),
            point=key.public_key().public_bytes_raw(),
        )


def client_key(folder: Path) -> tuple[Path, KeyPair]:
    """The path of the user's key for guests in *folder*, and the key; it is created if it is missing.

    Raises:
        XhyveError: the file is not a usable key.
    """
    path = folder / "id_ed25519"
    with locked(folder / "id_ed25519.lock", "makes the key for guests", SHORT_SECONDS):
        if not path.exists():
            fresh = folder / "id_ed25519.new"
            fresh.unlink(missing_ok=True)
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(KeyPair.generate().private)
            fresh.replace(path)
        try:
            return path, KeyPair.load(path.read_bytes())
        except (OSError, ValueError) as error:
            raise XhyveError(
                f"{path} is not a usable key ({error})\n"
                "  remove it; the plugin then makes a new key and rebuilds the images for it"
            ) from error
