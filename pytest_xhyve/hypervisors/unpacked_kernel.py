"""A kernel for arm64 in a format that a hypervisor loads."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from pytest_xhyve.formats.arm64_kernel import Form, read_arm64_kernel, unpack_arm64_kernel
from pytest_xhyve.model.machine import Machine

_NAME = "kernel"


def with_loadable_kernel(machine: Machine, folder: Path, loadable: Collection[Form]) -> Machine:
    """*machine*, whose kernel for arm64 is unpacked into *folder* if its format is not one of *loadable*.

    Args:
        machine: the machine's description.
        folder: the guest's folder.
        loadable: the formats that the hypervisor loads.

    Raises:
        ImageError: the kernel is damaged, or its compression is unknown.
    """
    found = None if machine.kernel is None else read_arm64_kernel(machine.kernel)
    if machine.kernel is None or found is None or found.form in loadable:
        return machine
    unpacked = folder / _NAME
    unpacked.write_bytes(unpack_arm64_kernel(machine.kernel))
    return replace(machine, kernel=unpacked)
