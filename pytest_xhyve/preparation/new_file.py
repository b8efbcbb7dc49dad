"""A file that preparation writes into the system of a disk."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that the helper guest writes into the system.

    Attributes:
        path: without the first slash.
        content: the bytes.
        mode: the mode of the file; a missing folder above it gets 0755, or 0700 if its name is ``.ssh``.
        append: whether the content is added to a file that exists.
    """

    path: str
    content: bytes
    mode: int = 0o644
    append: bool = False
