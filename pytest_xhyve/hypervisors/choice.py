"""Which hypervisor guests are run by: the one that was asked for, or the first that works here."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.base import Hypervisor
from pytest_xhyve.model.errors import HypervisorNotFound, XhyveError
from pytest_xhyve.model.settings import Settings

_IN_ORDER = ("xhyve", "hyperkit", "qemu")


def select_hypervisor(settings: Settings, home: Home, report: Callable[[str], None]) -> Hypervisor:
    """The hypervisor that *settings* ask for; with ``auto``, the first that was proved to work.

    Args:
        settings: what was asked for.
        home: the plugin's folder.
        report: gets a line when one is installed and not taken.

    Raises:
        HypervisorNotFound: there is none, or the program that was named does not work.
    """
    if settings.hypervisor != "auto":
        return _make(settings.hypervisor, settings, home)
    *others, last = _IN_ORDER
    for name in others:
        # What is not there needs no word; most hosts have neither.
        if shutil.which(settings.executable or name) is None:
            continue
        try:
            hypervisor = _make(name, settings, home)
            proof = hypervisor.prove()
        except XhyveError as error:
            why = str(error)
        else:
            if proof.works:
                return hypervisor
            why = proof.reason
            if settings.executable is not None:
                raise HypervisorNotFound(why)
        if settings.executable is not None:
            # It is none of these.
            break
        report(f"{name} is here, and not taken: {why}")
    return _make(last, settings, home)


def _make(name: str, settings: Settings, home: Home) -> Hypervisor:
    # What is not used is not imported: it would take longer than a command in a guest.
    if name == "qemu":
        from pytest_xhyve.hypervisors.qemu.driver import Qemu  # noqa: PLC0415

        return Qemu(executable=settings.executable, accel=settings.accel, cache=home.folder("acceleration"))
    from pytest_xhyve.hypervisors.xhyve.driver import Xhyve  # noqa: PLC0415

    return Xhyve(program=settings.executable or name, cache=home.folder("vmnet"))
