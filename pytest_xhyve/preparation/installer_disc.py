"""An installer's disc: which installer it has, and the kernel and the initial RAM disk that start it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from pytest_xhyve.model.errors import ConfigurationError

InstallerKind = Literal["preseed", "autoinstall"]
"""How an installer takes its answers: Debian's by a preseed file, Ubuntu's from 20.04 on by autoinstall data."""

# Kernel and initial RAM disk, as Debian and Ubuntu lay their discs out; the first pair that is there counts.
_PLACES: tuple[tuple[InstallerKind, str, str], ...] = (
    ("preseed", "/install.amd/vmlinuz", "/install.amd/initrd.gz"),
    ("preseed", "/install/vmlinuz", "/install/initrd.gz"),
    ("preseed", "/linux", "/initrd.gz"),
    ("autoinstall", "/casper/vmlinuz", "/casper/initrd"),
    ("autoinstall", "/casper/hwe-vmlinuz", "/casper/hwe-initrd"),
)
_MAX_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class InstallerDisc:
    """What starts the installer of a disc.

    Attributes:
        kind: how it takes its answers.
        kernel: the content of the kernel's file.
        initrd: the content of the initial RAM disk.
    """

    kind: InstallerKind
    kernel: bytes
    initrd: bytes


def read_installer_disc(path: Path) -> InstallerDisc:
    """The installer on the disc at *path*, which is read without mounting it.

    Raises:
        ConfigurationError: the file cannot be read, is not an ISO file, or has no installer that is known.
    """
    # Only who installs a system needs this package.
    import pycdlib  # noqa: PLC0415
    from pycdlib.pycdlibexception import PyCdlibException  # noqa: PLC0415

    iso = pycdlib.PyCdlib()
    try:
        iso.open(str(path))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except (PyCdlibException, ValueError, IndexError, struct.error) as error:
        raise ConfigurationError(f"{path} is not the ISO file of an installer: {error}") from error
    try:
        facade = iso.get_rock_ridge_facade() if iso.has_rock_ridge() else iso.get_iso9660_facade()
        for kind, kernel, initrd in _PLACES:
            found = [_read(facade, name, rock_ridge=iso.has_rock_ridge()) for name in (kernel, initrd)]
            if found[0] is not None and found[1] is not None:
                return InstallerDisc(kind, found[0], found[1])
    except (PyCdlibException, OSError, struct.error) as error:
        raise ConfigurationError(f"{path} is damaged or cut off: {error}\n  copy the file again") from error
    finally:
        iso.close()
    places = ", ".join(kernel for _, kernel, _ in _PLACES)
    raise ConfigurationError(
        f"{path} is not an installer that is known: it has none of {places}\n"
        "  Debian's and Ubuntu's server installers are; a disc that only runs a system from itself is not"
    )


def _read(facade: Any, name: str, *, rock_ridge: bool) -> bytes | None:
    """The content of the file *name*, or None if there is none."""
    from pycdlib.pycdlibexception import PyCdlibInvalidInput  # noqa: PLC0415

    # ISO 9660 without extensions has upper case names with a version (ECMA-119, section 7.5).
    argument = {"rr_path": name} if rock_ridge else {"iso_path": f"{name.upper()};1"}
    content = BytesIO()
    try:
        record = facade.get_record(argument.get("rr_path") or argument["iso_path"])
        if record.get_data_length() > _MAX_BYTES:
            raise ConfigurationError(f"{name} on the disc has more than {_MAX_BYTES} bytes")
        facade.get_file_from_iso_fp(content, **argument)
    except PyCdlibInvalidInput:
        return None
    if len(content.getvalue()) != record.get_data_length():
        raise OSError(f"{name} has {len(content.getvalue())} of {record.get_data_length()} bytes")
    return content.getvalue()
