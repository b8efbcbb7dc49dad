"""Save what a guest has become as an image of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.digests import digest_of
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.layer_file import copy_layer
from pytest_xhyve.host.locks import locked
from pytest_xhyve.images.layers import FOLDER, MANIFEST, LayerStore, check_name
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.images.publishing import new_workspace
from pytest_xhyve.model.errors import NotSupported
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk

_NEW = "saving"


def save_guest(guest: Guest, name: str, home: Home, report: Callable[[str], None]) -> Image:
    """Shut *guest* down, and keep its disk as the image *name*, which guests can be started from at once.

    Args:
        guest: a guest; if it is off already, its disk is saved as it is.
        name: the image's name; if an earlier guest was saved by it, that image loses the name.
        home: the cache folder.
        report: called with a line if this has to wait.

    Raises:
        ConfigurationError: an image cannot have that name, or one of the catalog has it.
        NotSupported: the guest has more than one disk.
        BootTimeout: the guest did not shut down in time.
        ImageError: the layer cannot be made.
    """
    check_name(name)
    if len(guest.machine.disks) != 1:
        raise NotSupported(
            f"guest {guest.name} has {len(guest.machine.disks)} disks, and an image has one\n"
            "  save a guest without disks=[…]"
        )
    if guest._power.is_on:
        guest.shutdown()
    base = guest.image
    store = LayerStore(home)
    folder = home.folder(FOLDER)
    # One at a time: the lock is what keeps `prune` from removing the new folder.
    with locked(folder / f"{_NEW}.lock", "saves a guest", report=report), new_workspace(folder, _NEW) as path:
        # The key of a saved guest is that of its content, which is known only now.
        copy = copy_layer(guest.machine.disks[0], Disk(base.disk, base.format), path)
        key = store.key(base, {"saved": digest_of(copy.path)})
        with store.making(key, report) as workspace:
            if store.find(key) is None:
                disk = Disk(copy.path.rename(workspace / copy.path.name), copy.format)
                made = {"saved": guest.name, "of": base.name, "on": datetime.now(UTC).isoformat(timespec="seconds")}
                values = {"name": name, "cpus": guest.machine.cpus, "memory": guest.machine.memory}
                store.publish(workspace, key, base, disk, values, made)
            store.give_name(name, key)
    return replace(read_manifest(home.path / FOLDER / key / MANIFEST), name=name)
