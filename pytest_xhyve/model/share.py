"""Folders of the host that a guest has, too."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.values import short_repr

MAX_SHARES = 16


@dataclass(frozen=True, slots=True)
class Share:
    """A folder of the host in the guest.

    Attributes:
        target: the guest's folder.
        folder: the host's.
    """

    target: str
    folder: Path


def parse_shares(value: Any) -> tuple[Share, ...]:
    """The shares that a user writes as ``{"/src": "."}``: a guest's folder, and the host's.

    Raises:
        ConfigurationError: *value* is not that.
    """
    if not isinstance(value, Mapping):
        raise ConfigurationError(f'{short_repr(value)} is not a dict of folders; write {{"/src": "."}}')
    if len(value) > MAX_SHARES:
        raise ConfigurationError(f"{len(value)} shares are too many; a guest can have {MAX_SHARES}")
    return tuple(Share(_parse_target(target), _parse_folder(folder)) for target, folder in value.items())


def _parse_target(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
        raise ConfigurationError(f"{short_repr(value)} is not an absolute path in the guest, such as /src")
    path = posixpath.normpath(value).replace("//", "/")
    if path == "/":
        raise ConfigurationError("a share cannot be the guest's root folder; use one such as /src")
    return path


def _parse_folder(value: Any) -> Path:
    if not isinstance(value, str | os.PathLike) or not str(value) or "\0" in str(value):
        raise ConfigurationError(f"{short_repr(value)} is not a folder of this host")
    return Path(value).expanduser()
