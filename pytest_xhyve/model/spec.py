"""The guest that a test, a marker or a factory call requests."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import DiskSizes
from pytest_xhyve.model.share import Share, parse_shares
from pytest_xhyve.model.values import (
    Firmware,
    Network,
    StartMode,
    parse_arguments,
    parse_choice,
    parse_disk_size,
    parse_memory,
    parse_positive_int,
    short_repr,
)

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")

MAX_EMPTY_DISKS = 20
"""A machine of each hypervisor has about 30 slots for devices."""


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """The guest that is requested. For None, the plugin takes the option's value, or else the image's.

    Attributes:
        image: a name, a path or an image.
        name: the guest's name and host name: letters, digits and dashes (RFC 1123); if None, the plugin generates it.
        cpus: virtual CPUs.
        memory: bytes.
        disks: the sizes of empty disks, in bytes: ``/dev/vdb``, ``/dev/vdc`` and so on.
        disk_size: the size of the disk that is cloned from the image's, in bytes; the root file system grows into it.
        firmware: ``bios`` or ``uefi`` boots the guest by the boot loader of its disk; without it, the hypervisor loads
            the kernel.
        network: what the guest can reach beside its test: ``nat``, ``isolated`` or ``none``.
        start: ``cold`` boots the guest, ``warm`` restores it from a template, ``auto`` restores it if possible.
        reset: whether each test gets a shared guest in the state in which the fixtures left it.
        power_cuts: whether the guest's writes are recorded, so that ``guest.power_cut()`` works.
        shares: folders of the host that the guest mounts: a dict of the guest's folders, each with the host's.
    """

    image: str | os.PathLike[str] | Image | None = None
    name: str | None = None
    cpus: int | None = None
    memory: int | None = None
    disks: tuple[int, ...] | None = None
    disk_size: int | None = None
    firmware: Firmware | None = None
    network: Network | None = None
    start: StartMode | None = None
    reset: bool | None = None
    power_cuts: bool | None = None
    shares: tuple[Share, ...] | None = None

    @classmethod
    def parse(cls, **keys: Any) -> GuestSpec:
        """A spec from keyword arguments as users write them, for example ``memory="512M"``.

        Raises:
            ConfigurationError: a key is unknown or a value is invalid; the message names the key.
        """
        parsers: dict[str, Callable[[Any], Any]] = {
            "image": _parse_image,
            "name": parse_host_name,
            "cpus": parse_positive_int,
            "memory": parse_memory,
            "disks": _parse_disks,
            "disk_size": parse_disk_size,
            "firmware": parse_choice(*get_args(Firmware)),
            "network": parse_choice(*get_args(Network)),
            "start": parse_choice(*get_args(StartMode)),
            "reset": _parse_flag,
            "power_cuts": _parse_flag,
            "shares": parse_shares,
        }
        return cls(**parse_arguments(keys, parsers, "a guest"))

    @property
    def disk_sizes(self) -> DiskSizes:
        """The sizes of all disks."""
        return DiskSizes(self.disk_size, self.disks or ())

    def anchored(self, folder: Path) -> GuestSpec:
        """A copy of this spec whose shares are absolute paths; relative ones are those of *folder*."""
        if self.shares is None:
            return self
        return replace(self, shares=tuple(replace(share, folder=folder / share.folder) for share in self.shares))

    def with_defaults(self, other: GuestSpec) -> GuestSpec:
        """A copy of this spec that takes the value of *other* for each None."""
        given = {key: value for key in self.__slots__ if (value := getattr(self, key)) is not None}
        return replace(other, **given)


def parse_host_name(value: Any) -> str:
    """A host name of letters, digits and dashes (RFC 1123).

    Raises:
        ConfigurationError: *value* is not one.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ConfigurationError(f"{short_repr(value)} is not a host name: use letters, digits and dashes, at most 63")
    return value


def _parse_disks(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigurationError(f'{short_repr(value)} is not a list of sizes; write ["1G", "512M"]')
    if len(value) > MAX_EMPTY_DISKS:
        raise ConfigurationError(f"{len(value)} disks are too many; a guest can have {MAX_EMPTY_DISKS} empty ones")
    return tuple(parse_disk_size(size) for size in value)


def _parse_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{short_repr(value)} is not True or False")
    return value


def _parse_image(value: Any) -> str | os.PathLike[str] | Image:
    if not isinstance(value, str | os.PathLike | Image) or not str(value):
        raise ConfigurationError(f"{short_repr(value)} is not an image: give a name or a path")
    return value
