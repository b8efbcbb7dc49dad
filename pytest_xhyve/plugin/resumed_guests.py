"""The saved guests of a failed test, for a run of this test alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pytest_xhyve.model.errors import NotSupported, XhyveError

if TYPE_CHECKING:
    from pytest_xhyve.fleet.fleet import Fleet
    from pytest_xhyve.fleet.resumed_guests import Resumed
    from pytest_xhyve.guest.guest import Guest, KeepPolicy
    from pytest_xhyve.guest.guests import Guests
    from pytest_xhyve.model.cluster import ClusterSpec
    from pytest_xhyve.model.spec import GuestSpec


class ResumedTest:
    """Gives a test its saved guests in the place of new ones.

    Args:
        path: the bundle.
        image: the manifest of the image, if the user names it.
        key: the private key to log in with; None for the image's.
        frozen_clock: whether the clock stays at the moment of the failure.
    """

    def __init__(self, path: Path, image: Path | None, key: Path | None, *, frozen_clock: bool) -> None:
        self._path = path
        self._image = image
        self._key = key
        self._frozen = frozen_clock
        self._left: list[Resumed] = []

    @contextmanager
    def resumed(self, fleet: Fleet, reason_to_keep: KeepPolicy) -> Iterator[None]:
        """For the time of the block, all guests of the bundle go on."""
        from pytest_xhyve.fleet.bundle import Bundle  # noqa: PLC0415
        from pytest_xhyve.fleet.resumed_guests import resumed_guests  # noqa: PLC0415
        from pytest_xhyve.fleet.resuming import ResumeOptions  # noqa: PLC0415
        from pytest_xhyve.guest.guest import Ownership  # noqa: PLC0415

        options = ResumeOptions(self._image, self._key, self._frozen, fleet.report)
        with (
            Bundle.open(self._path) as bundle,
            resumed_guests(bundle, fleet, options, lambda _: True) as resumed,
        ):
            for each in resumed:
                assert each.guest is not None
                save = partial(fleet.images.save, each.guest)
                each.guest._owner = Ownership(each.resources, _refuse_to_keep, reason_to_keep, save)
            self._left = list(resumed)
            yield

    def take_guest(self, spec: GuestSpec) -> Guest | None:
        """The saved guest for a request of *spec*: that with its name, or else the next one of its image.

        Returns:
            the guest; None if the bundle has none left, so that a new one is needed.
        """
        single = [each for each in self._left if each.saved.place is None]
        if spec.name is not None:
            found = [each for each in single if each.saved.name == spec.name]
        else:
            found = [each for each in single if each.saved.image.name == str(spec.image)] or single
        if not found:
            return None
        return self._take(found[0], spec)

    def take_cluster(self, spec: ClusterSpec) -> Guests | None:
        """The saved guests for a request of a cluster.

        Returns:
            them; None if the bundle has none of them left.

        Raises:
            XhyveError: the bundle has only some of them.
        """
        from pytest_xhyve.guest.guests import Guests  # noqa: PLC0415

        on_lans = [each for each in self._left if each.saved.place is not None]
        found = {each.saved.name: each for each in reversed(on_lans)}
        missing = [name for name in spec.guests if name not in found]
        if len(missing) == len(spec.guests):
            return None
        if missing:
            raise XhyveError(
                f"the bundle has no guest {missing[0]}, which the test has removed before it failed\n"
                "  run the test without --pytest"
            )
        switches = {lan: switch for name in spec.guests for lan, switch in found[name].switches.items()}
        guests = {name: self._take(found[name], each) for name, each in spec.guests.items()}
        return Guests(guests, switches, ExitStack())

    def _take(self, resumed: Resumed, spec: GuestSpec) -> Guest:
        self._left.remove(resumed)
        guest = resumed.guest
        assert guest is not None
        if spec.power_cuts:
            guest.record_writes()
        return guest


def _refuse_to_keep(by: str) -> NoReturn:
    del by
    raise NotSupported("a guest of a bundle cannot be kept; resume it again")
