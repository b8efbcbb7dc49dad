"""Start the guests of a cluster at the same time, on LANs of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_xhyve.fleet.request import ForegroundRequest, MachineHook
from pytest_xhyve.guest.common_network import join_common_network
from pytest_xhyve.guest.guests import Guests
from pytest_xhyve.guest.lans import GuestLans
from pytest_xhyve.model.cluster import ClusterSpec
from pytest_xhyve.model.errors import NotSupported
from pytest_xhyve.model.lan import lan_places

if TYPE_CHECKING:
    from pytest_xhyve.fleet.fleet import Fleet
    from pytest_xhyve.guest.guest import Guest


def start_cluster(fleet: Fleet, spec: ClusterSpec, requested_by: str, hook: MachineHook | None = None) -> Guests:
    """Start all guests of *spec*; each can use its LANs and find the others by name. Closing the fleet removes them.

    Args:
        fleet: starts the guests.
        spec: the cluster.
        requested_by: the test, class, module or session that it is for.
        hook: modifies each machine before it starts; None to leave them as they are.

    Raises:
        NotSupported: the hypervisor has no such LANs.
        XhyveError: a guest cannot be started; the others are removed.
    """
    has_lans = fleet.hypervisor.has_lans
    if not has_lans:
        _check_common_network(fleet, spec)
    lans = spec.lans if has_lans else {}
    places = lan_places(list(spec.guests), lans)
    with ExitStack() as resources, ExitStack() as reserved:
        # All at once: a cluster that waits for its last guest would hold the others' slots.
        reserved.callback(fleet.release_reserved_slots)
        fleet.reserve_slots(list(spec.guests.values()), requested_by)
        switches = {lan: resources.enter_context(fleet.switch(lan)) for lan in lans}
        requests = {
            name: ForegroundRequest(
                replace(guest, reset=spec.reset or None),
                requested_by,
                hook,
                GuestLans(
                    name,
                    places[name],
                    tuple(switches[lan] for lan in spec.lans_of(name) if has_lans),
                ),
            )
            for name, guest in spec.guests.items()
        }
        guests = _start_all(fleet, requests)
        # Those that are left are of the test's other fixtures.
        reserved.pop_all()
        cluster = Guests(guests, switches, resources.pop_all())
    if not has_lans:
        try:
            join_common_network(guests, next(iter(spec.lans)))
        except BaseException:
            cluster.remove()
            raise
    return cluster


def _check_common_network(fleet: Fleet, spec: ClusterSpec) -> None:
    """Raise `NotSupported` if the LANs of *spec* are not what the one network of the hypervisor can be."""
    name, use = fleet.hypervisor.info.name, "\n  use --xhyve-hypervisor=qemu for this test"
    if not fleet.hypervisor.has_common_network:
        raise NotSupported(f"{name} has no LANs between guests{use}")
    if len(spec.lans) > 1:
        raise NotSupported(
            f"{name} has all guests on one network, where each reaches each, so a cluster cannot have several LANs{use}"
        )


def _start_all(fleet: Fleet, requests: Mapping[str, ForegroundRequest]) -> dict[str, Guest]:
    with ThreadPoolExecutor(len(requests), "xhyve-start") as pool:
        starting = {name: pool.submit(fleet.start, request) for name, request in requests.items()}
        try:
            wait(starting.values(), return_when=FIRST_EXCEPTION)
            error = _find_error(starting.values())
            if error is not None:
                raise error
        except BaseException:
            # Ctrl-C, too: no guest may go on to start.
            for request in requests.values():
                request.cancel()
            wait(starting.values())
            with ExitStack() as stack:
                for each in starting.values():
                    if each.exception() is None:
                        stack.callback(each.result().remove)
            raise
    return {name: each.result() for name, each in starting.items()}


def _find_error(starting: Iterable[Future[Guest]]) -> BaseException | None:
    """The error of a guest that cannot start; None if all have started."""
    errors = (each.exception() for each in starting if each.done())
    return next((error for error in errors if error is not None), None)
