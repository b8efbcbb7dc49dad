"""What a guest is made of: its spec, completed by the options, its image and its hypervisor."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from pytest_xhyve.fleet.hypervisors import Hypervisors
from pytest_xhyve.fleet.supported import check_supported
from pytest_xhyve.fleet.timeouts import timeouts_of
from pytest_xhyve.fleet.weight import weigh_guest
from pytest_xhyve.guest.lans import GuestLans
from pytest_xhyve.host.disk_size import check_size
from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.base import Hypervisor, Identity
from pytest_xhyve.images.catalog import Catalog
from pytest_xhyve.images.check import check_boots_by, check_image
from pytest_xhyve.images.manifest import DEFAULT_MEMORY
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Machine, Nic, lan_mac
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.timeouts import Timeouts
from pytest_xhyve.templates.key import identity_parameters


@dataclass(frozen=True, slots=True)
class ResolvedSpec:
    """A spec whose image is found.

    Attributes:
        spec: what the test states of the guest.
        image: the image that the guest is cloned from.
        hypervisor: runs the guest.
        start: how the guest starts: cold, warm or auto.
    """

    spec: GuestSpec
    image: Image
    hypervisor: Hypervisor
    start: str

    @property
    def is_restored(self) -> bool:
        """Whether the guest is to be restored from a template."""
        return _is_restored(self.start, self.hypervisor)

    def name(self, slot: int) -> str:
        """The name of the guest in the slot with this number."""
        return self.spec.name or f"{to_host_name(self.image.name)}-{slot}"


class SpecResolver:
    """Completes the specs of one process's guests. Safe to use from several threads.

    Args:
        settings: the run's settings.
        home: the cache folder.
        catalog: finds the images.
        hypervisors: the hypervisors of this process.
    """

    def __init__(self, settings: Settings, home: Home, catalog: Catalog, hypervisors: Hypervisors) -> None:
        self._settings = settings
        self._home = home
        self._catalog = catalog
        self._hypervisors = hypervisors

    def resolve(self, spec: GuestSpec) -> ResolvedSpec:
        """*spec* with its image, which is built or prepared first if need be.

        Raises:
            XhyveError: the image or the hypervisor is not found, or the image cannot be made.
        """
        image = self._catalog.find(self._image_of(spec))
        return ResolvedSpec(spec, image, self._hypervisors.for_image(image), self._start_of(spec))

    def check(self, resolved: ResolvedSpec) -> None:
        """Check what would keep the guest from starting.

        Raises:
            XhyveError: the guest cannot start; the class of the error states the reason.
        """
        spec, image = resolved.spec, resolved.image
        check_image(image, self._home.folder("checked"))
        check_size(spec.disk_size, image.disk)
        check_boots_by(spec.firmware or image.firmware, image)
        check_supported(spec, resolved.start, resolved.hypervisor)

    def weigh(self, spec: GuestSpec, image: Image | None = None) -> int:
        """Bytes of the host's memory that a guest of *spec* costs; *image* is None if it may not be known yet."""
        image = image or self._catalog.known(self._image_of(spec))
        restored = _is_restored(self._start_of(spec), self._hypervisors.for_image(image))
        return weigh_guest(self._memory(spec, image), restored=restored)

    def machine(self, resolved: ResolvedSpec, identity: Identity, name: str, lans: GuestLans) -> Machine:
        """The guest's machine, which has no disk yet."""
        spec, image, hypervisor, settings = resolved.spec, resolved.image, resolved.hypervisor, self._settings
        # One card is in all guests, so that those with a LAN and those without are restored from the same template.
        spare = 0 if hypervisor.snapshotter is None else 1
        lan_cards = max(spare, len(lans.switches)) if hypervisor.has_lans else 0
        firmware = spec.firmware or image.firmware
        return Machine(
            name=name,
            uuid=identity.uuid,
            cpus=spec.cpus or settings.cpus or image.cpus,
            cpu=image.cpu,
            memory=self._memory(spec, image),
            disks=(),
            nics=(Nic(identity.mac, network=spec.network or settings.network),),
            kernel=image.kernel,
            initrd=image.initrd,
            cmdline=" ".join([image.cmdline, *identity_parameters(name, identity.uuid)]),
            # Boot loaders write to the screen, and some of GRUB's do not work without one.
            graphics=firmware is not None,
            firmware=firmware,
            lan_macs=tuple(lan_mac(identity.uuid, number) for number in range(lan_cards)),
        )

    def timeouts(self, image: Image | None) -> Timeouts:
        """The limits of the steps of guests of *image*; of the default image if None."""
        return timeouts_of(self._settings, self._hypervisors.for_image(image).info)

    def _image_of(self, spec: GuestSpec) -> str | os.PathLike[str] | Image:
        return self._settings.images[0] if spec.image is None else spec.image

    def _start_of(self, spec: GuestSpec) -> str:
        return spec.start or self._settings.start

    def _memory(self, spec: GuestSpec, image: Image | None) -> int:
        return spec.memory or self._settings.memory or (DEFAULT_MEMORY if image is None else image.memory)


def _is_restored(start: str, hypervisor: Hypervisor) -> bool:
    return start != "cold" and hypervisor.snapshotter is not None


def to_host_name(text: str) -> str:
    """*text* with a dash for each run of characters that a host name cannot contain; ``guest`` if nothing is left."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:48] or "guest"
