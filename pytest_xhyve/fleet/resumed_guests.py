"""Resume all guests of a bundle: they go on at one moment, on LANs of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import TYPE_CHECKING

from pytest_xhyve.fleet.bundle import Bundle
from pytest_xhyve.fleet.bundled_files import BundledImages
from pytest_xhyve.fleet.resuming import ResumeOptions, Resumption
from pytest_xhyve.guest.lans import NO_LANS, GuestLans
from pytest_xhyve.model.errors import NotSupported, XhyveError

if TYPE_CHECKING:
    from pytest_xhyve.fleet.fleet import Fleet
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.lan.switch import Switch
    from pytest_xhyve.templates.saved_guest import SavedGuest

# Longer than the limit that a hypervisor has to load a state.
_LOAD_SECONDS = 150.0


class OthersFailed(XhyveError):
    """A guest waited for the others, one of which cannot be resumed."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """A guest that goes on.

    Attributes:
        saved: what the bundle states of it.
        folder: its folder.
        guest: the guest, if the plugin has logged in to it.
        debugger: the socket for gdb; None if it is not debugged.
        switches: the switch of each LAN that it is on, by the LAN's name.
        resources: closed to end it.
    """

    saved: SavedGuest
    folder: Path
    guest: Guest | None
    debugger: Path | None
    switches: Mapping[str, Switch]
    resources: ExitStack


@contextmanager
def resumed_guests(
    bundle: Bundle, fleet: Fleet, options: ResumeOptions, wants_login: Callable[[SavedGuest], bool | None]
) -> Iterator[list[Resumed]]:
    """All guests of *bundle*, which go on for the time of the block.

    Args:
        bundle: the bundle.
        fleet: runs the guests.
        options: how to resume.
        wants_login: whether a guest has to answer over SSH; None if only a guest has to that is made ready in this way.

    Raises:
        XhyveError: a guest cannot be resumed; nothing runs any more.
    """
    context = fleet.run_context()
    with ExitStack() as stack:
        switches = _start_switches(bundle, fleet, stack)
        together = _Together()
        folder = stack.enter_context(context.workspace())
        images = BundledImages(bundle, context.home, folder, options.image, options.report)
        # All first: what does not fit is known before anything starts.
        resumptions = []
        for saved in bundle.guests:
            lans = _lans_of(saved, bundle, switches)
            resumptions.append(Resumption(bundle, saved, images.find(saved), context, options, lans, together.wait))
        together.expect(sum(resumption.has_memory for resumption in resumptions))
        wanted = [_with_default(wants_login(resumption.saved), resumption) for resumption in resumptions]
        for resumption, login in zip(resumptions, wanted, strict=True):
            if login:
                resumption.check_login()
        stacks = [stack.enter_context(ExitStack()) for _ in resumptions]

        def start(number: int) -> Resumed:
            try:
                resumption, own = resumptions[number], stacks[number]
                lans = resumption.lans
                its_switches = dict(zip(lans.names, lans.switches, strict=True))
                if wanted[number]:
                    guest = own.enter_context(resumption.guest())
                    return Resumed(resumption.saved, guest._folder, guest, None, its_switches, own)
                process = own.enter_context(resumption.without_login())
                return Resumed(resumption.saved, process.folder, None, resumption.debugger, its_switches, own)
            except BaseException:
                together.give_up()
                raise

        yield _start_all(start, resumptions, together)


def _start_all(start: Callable[[int], Resumed], resumptions: list[Resumption], together: _Together) -> list[Resumed]:
    if len(resumptions) == 1:
        # In this thread, which Ctrl-C reaches.
        return [start(0)]
    with ThreadPoolExecutor(len(resumptions), "xhyve-resume") as pool:
        starting = [pool.submit(start, number) for number in range(len(resumptions))]
        try:
            wait(starting, return_when=FIRST_EXCEPTION)
        finally:
            # Ctrl-C, too: no guest may go on to start.
            if not all(each.done() and each.exception() is None for each in starting):
                together.give_up()
                for resumption in resumptions:
                    resumption.cancel()
    # One that only waited for the others has no error of its own.
    failed = sorted(starting, key=lambda each: isinstance(each.exception(), OthersFailed))
    for each in failed:
        each.result()
    return [each.result() for each in starting]


class _Together:
    """Lets guests wait for each other, so that none sends to one that is not there yet."""

    def __init__(self) -> None:
        self._barrier = Barrier(1)

    def expect(self, number: int) -> None:
        """Let *number* guests wait for each other."""
        self._barrier = Barrier(max(1, number))

    def wait(self) -> None:
        """Wait until all are ready.

        Raises:
            OthersFailed: another one will never be.
        """
        try:
            self._barrier.wait(_LOAD_SECONDS)
        except BrokenBarrierError as error:
            raise OthersFailed("another guest of the bundle cannot be resumed") from error

    def give_up(self) -> None:
        """Let no guest wait any longer."""
        self._barrier.abort()


def _with_default(wanted: bool | None, resumption: Resumption) -> bool:
    return resumption.needs_login if wanted is None else wanted


def _start_switches(bundle: Bundle, fleet: Fleet, stack: ExitStack) -> list[Switch]:
    if bundle.lans and not fleet.hypervisor.has_lans:
        raise NotSupported(
            f"{fleet.hypervisor.info.name} has no LANs between guests, which this bundle needs\n  use QEMU"
        )
    switches = [stack.enter_context(fleet.switch(lan.name)) for lan in bundle.lans]
    for lan, switch in zip(bundle.lans, switches, strict=True):
        switch.restore_links(lan.links)
    return switches


def _lans_of(saved: SavedGuest, bundle: Bundle, switches: list[Switch]) -> GuestLans:
    place = saved.place
    if place is None:
        return NO_LANS
    return GuestLans(place.name, place.on(bundle.lans), tuple(switches[card.lan] for card in place.cards))
