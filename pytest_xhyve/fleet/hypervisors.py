"""The hypervisors of one process: one for each architecture of its guests, selected when it is first used."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.base import Hypervisor
from pytest_xhyve.hypervisors.choice import select_hypervisor
from pytest_xhyve.images.own_login import OwnLogin
from pytest_xhyve.images.places import Places
from pytest_xhyve.images.stated import find_facts
from pytest_xhyve.model.architecture import Architecture, architecture_of, host_architecture
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.settings import Settings


class Hypervisors:
    """Safe to use from several threads.

    Args:
        settings: the run's settings.
        home: the cache folder.
        report: called with a line if a hypervisor is installed but does not work.
        given: runs all guests; if None, *settings* select one for each architecture.
    """

    def __init__(
        self, settings: Settings, home: Home, report: Callable[[str], None], given: Hypervisor | None = None
    ) -> None:
        self._settings = settings
        self._home = home
        self._report = report
        self._given = given
        self._lock = threading.RLock()
        self._selected: dict[str, Hypervisor] = {}

    @property
    def default(self) -> Hypervisor:
        """The hypervisor of guests for which no image is stated.

        Raises:
            HypervisorNotFound: no hypervisor found.
        """
        return self._given or self._select(default_architectures(self._settings, self._home)[0])

    def for_image(self, image: Image | None) -> Hypervisor:
        """The hypervisor of guests of *image*; the default one if None.

        Raises:
            HypervisorNotFound: no hypervisor found.
        """
        if image is None:
            return self.default
        return self._given or self._select(architecture_of(image.arch))

    def _select(self, architecture: Architecture) -> Hypervisor:
        with self._lock:
            if architecture.name not in self._selected:
                self._selected[architecture.name] = select_hypervisor(
                    self._settings, self._home, self._report, architecture
                )
            return self._selected[architecture.name]


def default_architectures(settings: Settings, home: Home) -> tuple[Architecture, ...]:
    """The architectures of the images of *settings*, each once; this host's if nothing is known of an image."""
    places, login = Places.of(home, settings), OwnLogin.of(settings)
    found = []
    for image in settings.images:
        try:
            arch = find_facts(image, places, login).arch
        except XhyveError:
            # The first guest reports it.
            arch = None
        found.append(host_architecture() if arch is None else architecture_of(arch))
    return tuple(dict.fromkeys(found))
