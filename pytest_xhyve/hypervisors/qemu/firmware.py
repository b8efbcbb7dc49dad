"""The firmware of a machine that boots by its own boot loader: SeaBIOS comes with QEMU, OVMF (UEFI) does not always."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_xhyve.model.architecture import X86_64, Architecture
from pytest_xhyve.model.errors import HypervisorNotFound

VARIABLES = "efi-variables.fd"
"""The file in the guest's folder in which the firmware keeps its variables, such as the order of boot."""


@dataclass(frozen=True, slots=True)
class Ovmf:
    """The files of OVMF.

    Attributes:
        code: the program, which no guest changes.
        variables: the variables of a new machine; each guest gets a copy.
    """

    code: Path
    variables: Path

    def create_variables(self, folder: Path) -> None:
        """Give the guest in *folder* its copy of the variables, unless it has one: they outlive a power-off.

        For a machine that is restored, QEMU overwrites the copy with the saved one (pflash_post_load in its sources).
        """
        variables = folder / VARIABLES
        if not variables.exists():
            shutil.copyfile(self.variables, variables)
            variables.chmod(0o600)

    def options(self, folder: Path) -> list[str]:
        """The part of QEMU's command line for a guest in *folder*."""
        # fmt: off
        return [
            "-machine", "pflash0=efi-code,pflash1=efi-variables",
            *_flash("efi-code", self.code, read_only=True),
            *_flash("efi-variables", folder / VARIABLES, read_only=False),
        ]
        # fmt: on


def find_ovmf(
    executable: Path, places: Sequence[tuple[str, str]] | None = None, architecture: Architecture = X86_64
) -> Ovmf:
    """OVMF's files on this host.

    Args:
        executable: QEMU's program.
        places: where to look, beside QEMU's own folder; None for where distributions install the files.
        architecture: the guest's.

    Raises:
        HypervisorNotFound: they are not found; the message names the packages.
    """
    beside = tuple(str(executable.resolve().parent / path) for path in architecture.firmware_beside)
    tried = [*(architecture.firmware if places is None else places), (beside[0], beside[1])]
    for code, variables in tried:
        if Path(code).is_file() and Path(variables).is_file():
            return Ovmf(Path(code), Path(variables))
    looked = "\n".join(f"    {code}" for code, _ in tried)
    debian, fedora = architecture.firmware_packages
    bios = ',\n  or use firmware="bios" if the disk boots by it' if architecture == X86_64 else ""
    raise HypervisorNotFound(
        f"the UEFI firmware OVMF for {architecture.name} is not found; looked for:\n{looked}\n"
        f"  install it (Debian and Ubuntu: apt install {debian}, Fedora: dnf install {fedora}; Homebrew's QEMU has it)"
        f"{bios}"
    )


def _flash(name: str, path: Path, *, read_only: bool) -> list[str]:
    file = {"driver": "file", "filename": str(path)}
    block = {"node-name": name, "driver": "raw", "read-only": read_only, "file": file}
    return ["-blockdev", json.dumps(block)]
