"""Which keys a manifest may name: all that our side of SSH can use, and no others."""

from __future__ import annotations

from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pytest_xhyve.formats.private_key import find_unusable
from pytest_xhyve.formats.public_key import parse_public_key
from pytest_xhyve.model.errors import ConfigurationError

KEYS: dict[str, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "rsa": rsa.generate_private_key(65537, 2048),
    "nistp256": ec.generate_private_key(ec.SECP256R1()),
    "nistp384": ec.generate_private_key(ec.SECP384R1()),
    "nistp521": ec.generate_private_key(ec.SECP521R1()),
}
FORMATS = {
    "OpenSSH's": PrivateFormat.OpenSSH,
    "PKCS#8": PrivateFormat.PKCS8,
    "the traditional": PrivateFormat.TraditionalOpenSSL,
}


@pytest.mark.parametrize("kind", KEYS)
def test_host_key_of_each_type(kind: str) -> None:
    line = KEYS[kind].public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert parse_public_key(f"{line} root@guest\n") == line
    entry = paramiko.hostkeys.HostKeyEntry.from_line(f"guest {line}")
    assert entry is not None
    assert entry.key is not None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("guest ssh-ed25519 AAAA", "'guest' is not a supported type"),
        ("ssh-ed25518 AAAA", "did you mean ssh-ed25519"),
        ("ssh-dss AAAAB3NzaC1kc3M=", "'ssh-dss' is not a supported type of host key"),
        (
            "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIHQK0VGpZYpRp7OJjsvT1dOXQ5oKCjQnfE7RVNXDAMDz",
            "the key in it is 'ssh-ed25519'",
        ),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAAA==", "wrong length"),
        ("ssh-ed25519 AAAA*", "damaged or truncated"),
        ("ssh-ed25519 AAAA…", "damaged or truncated"),
    ],
)
def test_host_key_that_is_none(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse_public_key(text)


@pytest.mark.parametrize("written", FORMATS)
@pytest.mark.parametrize("kind", KEYS)
def test_private_key_of_each_type(kind: str, written: str, tmp_path: Path) -> None:
    if kind == "ed25519" and written == "the traditional":
        pytest.skip("there is no such format of it")
    path = tmp_path / "key"
    path.write_bytes(KEYS[kind].private_bytes(Encoding.PEM, FORMATS[written], NoEncryption()))
    assert find_unusable(path) is None
    path.write_bytes(KEYS[kind].private_bytes(Encoding.PEM, FORMATS[written], BestAvailableEncryption(b"secret")))
    assert "has a passphrase" in (find_unusable(path) or "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a private key"),
        (b"\0" * 100, "is not a private key"),
        (b"ssh-rsa AAAA", "is a public key; give the private key, key"),
        (b"PuTTY-User-Key-File-3: ssh-ed25519\n", "puttygen"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\n*\n-----END OPENSSH PRIVATE KEY-----\n", "not base64"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "not an OpenSSH key"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is not a private key"),
    ],
)
def test_private_key_that_is_none(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "key.pub"
    path.write_bytes(content)
    assert words in (find_unusable(path) or "")
