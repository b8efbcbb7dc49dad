"""Makes the images that a run's guests need: pulls and prepares disks, builds recipes, keeps guests as images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_xhyve.fleet.request import Request
from pytest_xhyve.fleet.supported import check_takes_layers
from pytest_xhyve.fleet.timeouts import timeout_factor
from pytest_xhyve.host.exhaustion import is_exhausted
from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.base import Hypervisor
from pytest_xhyve.images.catalog import Catalog
from pytest_xhyve.images.manifest import Manifest
from pytest_xhyve.images.own_login import OwnLogin
from pytest_xhyve.images.own_recipe import OwnRecipe
from pytest_xhyve.images.places import Places
from pytest_xhyve.images.pulled import PulledImages
from pytest_xhyve.model.errors import BootFailed, ConnectionFailed, ImageError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.settings import Settings

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.preparation.run_context import RunContext


class ImageMaker:
    """Makes images for the guests of one process. Each room that it needs is imported when it is first used.

    Args:
        settings: the run's settings.
        home: the cache folder.
        progress: called with a line when something takes time.
        hypervisor: returns the hypervisor for guests of an image.
        run_context: returns what `pytest_xhyve.preparation` needs of the run.
        start: starts the guest in which a recipe is built.
    """

    def __init__(
        self,
        settings: Settings,
        home: Home,
        progress: Callable[[str], None],
        hypervisor: Callable[[Image], Hypervisor],
        run_context: Callable[[], RunContext],
        start: Callable[[Request], Guest],
    ) -> None:
        self._settings = settings
        self._home = home
        self._progress = progress
        self._hypervisor = hypervisor
        self._run_context = run_context
        self._start = start
        # Why a disk cannot be prepared, by its path.
        self._failures: dict[Path, str] = {}
        self.catalog = Catalog(
            home,
            progress,
            self.prepare,
            self.build,
            lambda address: self.pulled().get(address).disk,
            OwnLogin.of(settings),
            Places.of(home, settings),
        )
        """Finds images by their names, and has those made that are not there yet."""

    def prepare(self, manifest: Manifest) -> Image:
        """The image that a disk becomes of which *manifest* does not state all that a guest needs.

        A disk that cannot be prepared is tried once: another try would take as long, and end with the same error.

        Raises:
            XhyveError: the disk cannot be prepared.
        """
        from pytest_xhyve.preparation.prepare import prepare_disk  # noqa: PLC0415

        failure = self._failures.get(manifest.disk)
        if failure is not None:
            raise ImageError(
                f"{manifest.disk.name} could not be prepared for an earlier test: {failure}\n"
                "  that test shows the whole error"
            )
        try:
            return prepare_disk(manifest, self._run_context())
        except (ImageError, BootFailed, ConnectionFailed) as error:
            if not is_exhausted(error):
                self._failures[manifest.disk] = str(error).partition("\n")[0]
            raise

    def pulled(self) -> PulledImages:
        """The disks that were pulled, and that can be."""
        settings = self._settings
        return PulledImages(
            self._home, settings.mirror, self._progress, offline=settings.offline, factor=settings.timeout_factor
        )

    def build(self, recipe: OwnRecipe, base: Image) -> Image:
        """The image that *recipe* makes of *base*; it is built if it is not there yet.

        Raises:
            XhyveError: it cannot be built.
        """
        from pytest_xhyve.fleet.building import start_for_build  # noqa: PLC0415
        from pytest_xhyve.layers.building import build_layer  # noqa: PLC0415

        hypervisor = self._hypervisor(base)
        check_takes_layers(hypervisor)
        factor = timeout_factor(self._settings, hypervisor.info)
        start = partial(start_for_build, self._start)
        return build_layer(recipe, base, self._home, start, factor, self._progress)

    def save(self, guest: Guest, name: str) -> Image:
        """Keep the disk of *guest* as the image *name*; see `pytest_xhyve.Guest.save_as_image`."""
        from pytest_xhyve.layers.saving import save_guest  # noqa: PLC0415

        image = save_guest(guest, name, self._home, self._progress)
        self.catalog.forget(name)
        return image
