"""The factory by which a test makes guests itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_xhyve.model.cluster import ClusterSpec
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.values import Firmware, Network, StartMode

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.guest.guests import Guests


class GuestFactory:
    """Makes guests for a test's own code: ``factory(image="tiny", name="web") -> Guest``.

    A guest lives until the factory's scope ends, or until the end of a ``with`` block around it.
    """

    def __init__(
        self, make: Callable[[GuestSpec], Guest], make_cluster: Callable[[ClusterSpec], Guests], default: GuestSpec
    ) -> None:
        self._make = make
        self._make_cluster = make_cluster
        self._default = default

    def __call__(
        self,
        *,
        image: str | os.PathLike[str] | Image | None = None,
        name: str | None = None,
        cpus: int | None = None,
        memory: int | str | None = None,
        disks: Sequence[int | str] | None = None,
        disk_size: int | str | None = None,
        firmware: Firmware | None = None,
        network: Network | None = None,
        start: StartMode | None = None,
        reset: bool | None = None,
        power_cuts: bool | None = None,
        shares: Mapping[str, str | os.PathLike[str]] | None = None,
    ) -> Guest:
        """Start a guest, and wait until it is reachable over SSH. The arguments are those of the marker.

        Args:
            image: a name, a path or an `Image`; the run's image if None.
            name: the guest's name and host name; generated if None.
            cpus: number of virtual CPUs.
            memory: bytes, or a text such as ``512M``.
            disks: the sizes of empty disks, as for *memory*: ``/dev/vdb``, ``/dev/vdc`` and so on.
            disk_size: the size of ``/dev/vda``; the root file system grows into it.
            firmware: ``bios`` or ``uefi`` boots the guest by the boot loader of its disk.
            network: what the guest can reach beside its test: ``nat``, ``isolated`` or ``none``; the option
                ``--xhyve-network`` decides if it is None.
            start: ``cold`` boots the guest, ``warm`` restores it, ``auto`` restores it if possible; the option
                ``--xhyve-start`` decides if it is None.
            reset: whether each test finds the guest in the state in which the fixtures that tests share left it.
            power_cuts: whether the guest's writes are recorded, so that ``guest.power_cut()`` works.
            shares: folders of the host that the guest has, too, by the guest's paths; relative ones are those of the
                project's root folder (pytest's rootdir).

        Raises:
            ConfigurationError: an argument is invalid.
            XhyveError: the guest cannot be started; the class of the error states the reason.
        """
        spec = GuestSpec.parse(
            image=image,
            name=name,
            cpus=cpus,
            memory=memory,
            disks=disks,
            disk_size=disk_size,
            firmware=firmware,
            network=network,
            start=start,
            reset=reset,
            power_cuts=power_cuts,
            shares=shares,
        )
        return self._make(spec.with_defaults(self._default))

    def cluster(self, **keys: Any) -> Guests:
        """Start the guests of a cluster, on LANs of their own: ``factory.cluster(server="debian12", client="tiny")``.

        Args:
            keys: those of the marker ``xhyve_guests``.

        Raises:
            ConfigurationError: a key or a value is invalid.
            NotSupported: the hypervisor has no LANs.
            XhyveError: a guest cannot be started; the others are removed.
        """
        return self._make_cluster(ClusterSpec.parse(**keys).with_defaults(self._default))
