"""Select the hypervisor: the one that the settings name, or the first that works on this host."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.base import Hypervisor, OtherProgram
from pytest_xhyve.model.architecture import X86_64, Architecture, host_architecture
from pytest_xhyve.model.errors import HypervisorNotFound, XhyveError
from pytest_xhyve.model.settings import Settings

_IN_ORDER = ("vfkit", "xhyve", "hyperkit", "qemu")


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
        if _only_architecture(name) not in (None, architecture):
            continue
        # No message for a program that is not installed: most hosts have none.
        if shutil.which(settings.executable or name) is None:
            continue
        try:
            hypervisor = _make(name, settings, home, architecture)
            proof = hypervisor.prove()
        except OtherProgram as error:
            if settings.executable is not None:
                # The named program may be the next one.
                continue
            reason = str(error)
        except XhyveError as error:
            if settings.executable is not None:
                raise
            reason = str(error)
        else:
            if proof.works:
                return hypervisor
            reason = proof.reason
            if settings.executable is not None:
                raise HypervisorNotFound(reason)
        report(f"{name} is installed but does not work here: {reason}")
    return _make(last, settings, home, architecture)


def _make(name: str, settings: Settings, home: Home, architecture: Architecture) -> Hypervisor:
    only = _only_architecture(name)
    if only is not None and only != architecture:
        raise HypervisorNotFound(
            f"{name} runs guests of {only.name} only, and these are {architecture.name}\n"
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
    if name == "vfkit":
        from pytest_xhyve.hypervisors.vfkit.driver import Vfkit  # noqa: PLC0415

        return Vfkit(program=settings.executable or name, cache=home.folder("vfkit"))
    from pytest_xhyve.hypervisors.xhyve.driver import Xhyve  # noqa: PLC0415

    return Xhyve(program=settings.executable or name, cache=home.folder("vmnet"))


def _only_architecture(name: str) -> Architecture | None:
    """The one architecture of the guests of the hypervisor *name*; None if it runs others, too."""
    if name in ("xhyve", "hyperkit"):
        return X86_64
    return host_architecture() if name == "vfkit" else None
