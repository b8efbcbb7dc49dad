"""Images that are pulled and kept by a process that is killed: before each change that it makes in the cache folder.

The next run starts from a clean state: nothing half is taken for an image, and nothing of the killed one stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_images import write_image
from killing import killed_at
from web_server import Site, serving

from pytest_xhyve.host.digests import digest_of
from pytest_xhyve.host.download import Limits
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.distributions import Address
from pytest_xhyve.images.layers import LayerStore, saved_manifest
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.images.pulled import PulledImages, find_pulled
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk

# The thread of the server is not in the process that is forked, which uses the server only over the network.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
DISK = os.urandom(1 << 16)
# More changes than any work here makes.
MOST = 100


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as site:
        yield site


def homes(folder: Path) -> Iterator[tuple[int, Home]]:
    """A number, and a new cache folder for it."""
    for number in range(1, MOST):
        path = folder / str(number)
        path.mkdir(mode=0o700)
        yield number, Home(path)
    raise AssertionError("the work did not come to its end")


def leftovers(home: Home) -> list[Path]:
    """What is in no folder that has a name, and files that were to get another name; `prune` removes half digests."""
    found = [path for path in home.path.rglob("*") if path.name.startswith(".") or path.suffix in (".new", ".part")]
    return [path for path in found if path.parent.name != "checked"]


def pull(home: Home, address: Address) -> None:
    PulledImages(home, (), lambda _: None, offline=False, limits=Limits(5.0, 2, 0.01)).get(address, update=True)


def test_killed_pull(site: Site, tmp_path: Path) -> None:
    digest = site.add("/disk.qcow2", DISK)
    address = Address("mine", f"{site.url}/disk.qcow2", checksum=("sha256", digest))
    for number, home in homes(tmp_path):
        if not killed_at(number, home.path, lambda home=home: pull(home, address)):  # type: ignore[misc]
            break
        found = find_pulled(address, home.path)
        assert found is None or found.disk.read_bytes() == DISK
        pull(home, address)
        found = find_pulled(address, home.path)
        assert found is not None
        assert found.disk.read_bytes() == DISK
        assert leftovers(home) == []
    assert number > 5


def base_in(home: Home) -> Image:
    folder = home.folder("images") / "tiny-0123456789ab"
    folder.mkdir()
    return read_manifest(write_image(folder, "disk"))


def save(home: Home, base: Image, content: bytes) -> None:
    """As `pytest_xhyve.layers.saving` does, without a guest."""
    store = LayerStore(home)
    key = store.key(base, {"saved": content.hex()})
    with store.making(key, lambda _: None) as workspace:
        if store.find(key) is None:
            disk = workspace / "disk.img"
            disk.write_bytes(content)
            store.publish(workspace, key, replace(base, extends=None), Disk(disk), {"name": "mine"}, {"saved": "mine"})
        store.give_name("mine", key)


def named(home: Home) -> bytes | None:
    """The content of the disk of the image ``mine``; None if there is none."""
    manifest = saved_manifest("mine", home.path)
    if manifest is None:
        return None
    image = read_manifest(manifest)
    assert digest_of(image.disk) == image.sha256
    return image.disk.read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize("before", [None, b"earlier"])
def test_killed_layer_and_name(tmp_path: Path, before: bytes | None) -> None:
    for number, home in homes(tmp_path):
        base = base_in(home)
        if before is not None:
            save(home, base, before)
        work: Callable[[], None] = lambda home=home, base=base: save(home, base, b"later")  # type: ignore[misc] # noqa: E731
        if not killed_at(number, home.path, work):
            break
        assert named(home) in (before, b"later")
        assert all(digest_of(layer.image.disk) == layer.image.sha256 for layer in LayerStore(home).all())
        save(home, base, b"later")
        assert named(home) == b"later"
        assert leftovers(home) == []
    assert number > 5
