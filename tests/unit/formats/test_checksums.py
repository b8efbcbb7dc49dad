"""Files of checksums."""

from __future__ import annotations

import pytest

from pytest_xhyve.formats.checksums import find_checksum

SHA256, SHA512 = "a" * 64, "b" * 128


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{SHA256}  disk.img\n", ("sha256", SHA256)),
        (f"{'0' * 64} *other.img\n{SHA256} *disk.img\n", ("sha256", SHA256)),
        (f"{SHA512.upper()}  ./disk.img\r\n", ("sha512", SHA512)),
        (f"# disk.img: 12 bytes\nSHA256 (disk.img) = {SHA256}\n", ("sha256", SHA256)),
        (f"SHA256 (disk.img) = {SHA256}\nSHA512 (disk.img) = {SHA512}\n", ("sha512", SHA512)),
        (f"{SHA512}\n", ("sha512", SHA512)),
        (f"{SHA256}  disk.img.xz\n", None),
        (f"SHA256 (disk.img) = {SHA512}\n", None),
        ("a" * 40 + "  disk.img\n", None),
        ("", None),
    ],
)
def test_checksum_of_a_file(text: str, found: tuple[str, str] | None) -> None:
    assert find_checksum(text, "disk.img") == found
