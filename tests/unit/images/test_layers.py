"""Layers in the cache folder: how they are made, found again, and kept apart from what is below them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_images import write_image
from fake_layers import BLOCK, clone_of, make_layer, qemu_io

from pytest_xhyve.host.home import Home
from pytest_xhyve.host.layer_file import copy_layer
from pytest_xhyve.images.backing import backing_files, check_base
from pytest_xhyve.images.layers import LayerStore, check_name, layers_over, saved_manifest, saved_names
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.images.places import Places
from pytest_xhyve.images.sources import find_source
from pytest_xhyve.model.errors import ConfigurationError, ImageError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk


@pytest.fixture
def base(new_home: Home) -> Image:
    folder = new_home.folder("images") / "tiny-0123456789ab"
    folder.mkdir()
    return read_manifest(write_image(folder, "disk"))


def test_layers_three_deep(new_home: Home, base: Image, tmp_path: Path) -> None:
    image = base
    for number in (1, 2, 3):
        image = make_layer(new_home, image, f"layer-{number}", number, tmp_path)
        check_base(image, new_home.folder("checked"))
    assert image.extends is not None
    assert (image.extends.image, len(image.extends.sha256)) == ("layer-2", 3)
    assert (image.kernel, image.cmdline, image.host_keys) == (
        image.manifest.parent / "../../images/tiny-0123456789ab/vmlinuz",
        base.cmdline,
        base.host_keys,
    )
    for number in (1, 2, 3):
        qemu_io(image.disk, f"read -P {number} {number * BLOCK} {BLOCK}")
    assert [layer.image.name for layer in LayerStore(new_home).all()] == ["layer-1", "layer-2", "layer-3"]
    assert layers_over(base.disk.parent, new_home) == sorted(
        path for path in new_home.folder("layers").glob("????????????????")
    )
    assert image.disk.stat().st_mode & 0o777 == 0o400


def test_layer_needs_no_template_below(new_home: Home, base: Image, tmp_path: Path) -> None:
    template = clone_of(Disk(base.disk, "raw"), tmp_path / "template.qcow2", 1)
    clone = clone_of(template, tmp_path / "clone.qcow2", 2, at=BLOCK)
    folder = new_home.folder("layers") / "new"
    folder.mkdir()
    layer = copy_layer(clone, Disk(base.disk, "raw"), folder)
    template.path.unlink()
    clone.path.unlink()
    assert [path.resolve() for path in backing_files(layer.path, "qcow2")] == [base.disk]
    qemu_io(layer.path, f"read -P 1 0 {BLOCK}", f"read -P 2 {BLOCK} {BLOCK}")


def test_raw_clone_stands_alone(new_home: Home, base: Image, tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(b"a whole disk")
    store = LayerStore(new_home)
    with store.making("0" * 16, print) as workspace:
        layer = copy_layer(Disk(raw), Disk(base.disk), workspace)
        image = store.publish(workspace, "0" * 16, base, layer, {"name": "alone"}, {})
    assert (image.format, image.extends, image.disk.read_bytes()) == ("raw", None, b"a whole disk")


def test_moved_cache_is_used(new_home: Home, base: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CI does: another path, and new times of all files."""
    make_layer(new_home, make_layer(new_home, base, "below", 1, tmp_path), "above", 2, tmp_path)
    elsewhere = Home(tmp_path / "else" / "where")
    shutil.copytree(new_home.path, elsewhere.path, copy_function=shutil.copyfile)
    shutil.rmtree(new_home.path)
    for layer in LayerStore(elsewhere).all():
        assert LayerStore(elsewhere).find(layer.key) == layer.image
        for path in (layer.image.disk, layer.image.kernel, *backing_files(layer.image.disk, "qcow2")):
            assert path is not None
            assert path.resolve().is_relative_to(elsewhere.path)
    # The key depends on the content alone.
    above = next(layer for layer in LayerStore(elsewhere).all() if layer.image.name == "above")
    below = next(layer for layer in LayerStore(elsewhere).all() if layer.image.name == "below")
    assert LayerStore(elsewhere).key(below.image, {"run": ["above"]}) == above.key


def alter(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(b"other" * 1024)


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda path: path.unlink(), "is a layer over disk, which is gone: .*disk.img, which is missing"),
        (alter, "is a layer over disk, which was altered"),
    ],
    ids=["gone", "altered"],
)
def test_base_that_is_not_as_it_was(
    harm: Callable[[Path], None], what: str, new_home: Home, base: Image, tmp_path: Path
) -> None:
    image = make_layer(new_home, base, "layer", 1, tmp_path)
    key = image.manifest.parent.name
    assert LayerStore(new_home).find(key) == image
    harm(base.disk)
    with pytest.raises(ImageError, match=what):
        check_base(image, new_home.folder("checked"))
    assert LayerStore(new_home).find(key) is None


def test_killed_build_leaves_no_layer(new_home: Home, base: Image, tmp_path: Path) -> None:
    left = new_home.folder("layers") / ".0123456789abcdef.killed"
    left.mkdir()
    (left / "manifest.yaml").write_text("name: half\n")
    store = LayerStore(new_home)
    assert (store.all(), store.find("0123456789abcdef")) == ([], None)
    with store.making("0123456789abcdef", print):
        assert not left.exists()


def test_names_of_saved_guests(new_home: Home, base: Image, tmp_path: Path) -> None:
    image = make_layer(new_home, base, "db", 1, tmp_path)
    store = LayerStore(new_home)
    store.give_name("db", image.manifest.parent.name)
    assert saved_manifest("db", new_home.path) == image.manifest
    assert saved_manifest("other", new_home.path) is None
    assert saved_manifest("../saved/db", new_home.path) is None
    assert saved_names(new_home.path) == ("db",)
    with pytest.raises(ConfigurationError, match="image 'dbb' not found; did you mean db\\?") as raised:
        find_source("dbb", places=Places(new_home.path))
    assert "\n  names of saved guests: db\n" in str(raised.value)
    with pytest.raises(ConfigurationError, match="image 'dbb' not found\n") as raised:
        find_source("dbb")
    assert "saved guests" not in str(raised.value)
    assert "https://HOST/FILE#sha256=DIGEST" in str(raised.value)
    assert [layer.names for layer in store.all()] == [("db",)]


@pytest.mark.parametrize("name", ["", "-x", "a/b", "../x", "x" * 49, "tiny"])
def test_name_that_no_image_can_have(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"not a name of an image|an image of the catalog"):
        check_name(name)
