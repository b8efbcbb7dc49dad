"""Select the hypervisor: the one that the settings name, or the first that works on this host."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.base import Hypervisor
from pytest_xhyve.model.architecture import X86_64, Architecture, host_architecture
from pytest_xhyve.model.errors import HypervisorNotFound, XhyveError
from pytest_xhyve.model.settings import Settings

_IN_ORDER = ("xhyve", "hyperkit", "qemu")
_ONLY_X86 = frozenset({"xhyve", "hyperkit"})


def select_hypervisor(
    settings: Settings, home: Home, report: Callable[[str], None], architecture: Architecture | None = None
) -> Hypervisor:
    """The hypervisor that *settings* name; with ``auto``, the first that was proved to work.

    Args:
        settings: the options' values.
        home: the cache folder.
        report: called with a line if a hypervisor is installed but does not work.
        architecture: the guests'; None for this host's.

    Raises:
        HypervisorNotFound: no hypervisor was found, the named program does not work, or it runs no such guests.
    """
    architecture = architecture or host_architecture()
    if settings.hypervisor != "auto":
        return _make(settings.hypervisor, settings, home, architecture)
    *others, last = _IN_ORDER
    for name in others:
        if name in _ONLY_X86 and architecture != X86_64:
            continue
        # No message for a program that is not installed: most hosts have neither.
        if shutil.which(settings.executable or name) is None:
            continue
        try:
            hypervisor = _make(name, settings, home, architecture)
            proof = hypervisor.prove()
        except XhyveError as error:
            reason = str(error)
        else:
            if proof.works:
                return hypervisor
            reason = proof.reason
            if settings.executable is not None:
                raise HypervisorNotFound(reason)
        if settings.executable is not None:
            # The named program is not xhyve or hyperkit.
            break
        report(f"{name} is installed but does not work here: {reason}")
    return _make(last, settings, home, architecture)


def _make(name: str, settings: Settings, home: Home, architecture: Architecture) -> Hypervisor:
    if name in _ONLY_X86 and architecture != X86_64:
        raise HypervisorNotFound(
            f"{name} runs guests of {X86_64.name} only, and these are {architecture.name}\n"
            "  use --xhyve-hypervisor=qemu, or another image"
        )
    # Only the driver in use is imported: an import takes longer than a command in a guest.
    if name == "qemu":
        from pytest_xhyve.hypervisors.qemu.driver import Qemu  # noqa: PLC0415

        return Qemu(
            executable=settings.executable,
            accel=settings.accel,
            cache=home.folder("acceleration"),
            architecture=architecture,
        )
    from pytest_xhyve.hypervisors.xhyve.driver import Xhyve  # noqa: PLC0415

    return Xhyve(program=settings.executable or name, cache=home.folder("vmnet"))
