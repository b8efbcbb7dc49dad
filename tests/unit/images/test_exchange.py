"""Images that are exported on one host and imported on another; each host is a cache folder."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from fake_images import write_image
from fake_layers import BLOCK, make_layer, qemu_io
from waiting import becomes

from pytest_xhyve.host.digests import digest_of
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.host.vanishing import find_existing, size_of
from pytest_xhyve.images.backing import backing_files
from pytest_xhyve.images.build import build_image
from pytest_xhyve.images.check import check_image
from pytest_xhyve.images.exchange import find_descriptions, import_folder, import_stream, write_folder, write_stream
from pytest_xhyve.images.exported import ExportedFile, ExportedImage, disk_name
from pytest_xhyve.images.exporting import Export, describe
from pytest_xhyve.images.importing import give_name, importing
from pytest_xhyve.images.layers import saved_manifest
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.model.errors import ConfigurationError, ImageError, XhyveError
from pytest_xhyve.model.image import Image


@pytest.fixture
def base(new_home: Home) -> Image:
    folder = new_home.folder("images") / "own-0123456789ab"
    folder.mkdir()
    return read_manifest(write_image(folder, "own"))


@pytest.fixture
def other(tmp_path: Path) -> Home:
    """The cache folder of the other host."""
    return Home(tmp_path / "other")


def export(image: Image, home: Home) -> Export:
    return describe(image, home.folder("checked"))


def left_in(home: Home) -> list[str]:
    """The images of a cache folder, and what of them is incomplete."""
    return sorted(
        path.name
        for room in ("images", "layers", "saved")
        for path in (home.path / room).glob("*")
        if path.suffix != ".lock"
    )


def bring(image: Image, home: Home, folder: Path, other: Home, name: str | None = None) -> Image:
    description = write_folder(export(image, home), folder, print)
    exported, brought = import_folder(description, other, print, name)
    give_name(exported, other)
    return brought


def test_image_is_the_same_on_the_other_host(base: Image, new_home: Home, other: Home, tmp_path: Path) -> None:
    brought = bring(base, new_home, tmp_path / "exported", other)
    check_image(brought, other.folder("checked"))
    assert brought.key is not None
    assert base.key is not None
    assert (brought.disk.read_bytes(), brought.key.read_bytes()) == (base.disk.read_bytes(), base.key.read_bytes())
    assert (brought.name, brought.host_keys, brought.cmdline) == (base.name, base.host_keys, base.cmdline)
    assert saved_manifest("own", other.path) == brought.manifest
    # A host finds out without a file whether it has the image.
    assert export(brought, other).image == export(base, new_home).image
    # A private key is in both.
    exported = [path for path in (tmp_path / "exported").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in exported} == {0o600}
    assert brought.key.stat().st_mode & 0o777 == 0o600
    before = digest_of(brought.manifest)
    said: list[str] = []
    (description,) = find_descriptions(tmp_path / "exported")
    import_folder(description, other, said.append)
    assert (said, digest_of(brought.manifest)) == ([], before)


def test_image_goes_through_a_pipe(base: Image, new_home: Home, other: Home) -> None:
    stream = io.BytesIO()
    write_stream(export(base, new_home), stream)
    stream.seek(0)
    exported, image = import_stream(stream, other, print, "another")
    assert (exported.name, image.name, image.disk.read_bytes()) == ("another", "another", base.disk.read_bytes())


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-io writes the layers")
@pytest.mark.parametrize("outside", [False, True])
def test_layers_go_with_their_image(base: Image, new_home: Home, other: Home, tmp_path: Path, *, outside: bool) -> None:
    """Layers name the files below them by other paths on the other host, and also if one is outside of the cache."""
    image = base
    if outside:
        (tmp_path / "project").mkdir()
        image = read_manifest(write_image(tmp_path / "project", "own"))
    for number in (1, 2):
        image = make_layer(new_home, image, f"layer-{number}", number, tmp_path)
    before = digest_of(image.disk)
    top = bring(image, new_home, tmp_path / "exported", other)
    shutil.rmtree(new_home.path)
    check_image(top, other.folder("checked"))
    assert {file.parent for file in backing_files(top.disk, "qcow2")} == {top.disk.parent}
    for number in (1, 2):
        qemu_io(top.disk, f"read -P {number} {number * BLOCK} {BLOCK}")
    assert top.extends is not None
    assert (top.extends.image, len(top.extends.sha256)) == ("layer-1", 2)
    assert before != digest_of(top.disk)
    # From there it goes on as it is.
    third = bring(top, other, tmp_path / "again", Home(tmp_path / "third"))
    assert digest_of(third.disk) == digest_of(top.disk)
    shutil.move(other.path, tmp_path / "moved")
    moved = Home(tmp_path / "moved")
    found = saved_manifest("layer-2", moved.path)
    assert found is not None
    check_image(read_manifest(found), moved.folder("checked"))


def test_only_what_is_missing_is_needed(base: Image, new_home: Home, other: Home, tmp_path: Path) -> None:
    bring(base, new_home, tmp_path / "exported", other)
    folder = new_home.folder("images") / "next-0123456789ab"
    shutil.copytree(base.disk.parent, folder)
    (folder / "own.img").write_bytes(b"else" * 1024)
    manifest = folder / "own.yaml"
    manifest.write_text(manifest.read_text().replace(str(base.sha256), digest_of(folder / "own.img")))
    newer = export(read_manifest(manifest), new_home)
    with importing(newer.image, other, print) as importer:
        assert importer.missing() == (digest_of(folder / "own.img"),)
    write_folder(newer, tmp_path / "exported", print)
    # The name stands for the newer one; what was there before stays for those who use it.
    exported, image = import_folder(tmp_path / "exported" / "own.json", other, print)
    give_name(exported, other)
    assert saved_manifest("own", other.path) == image.manifest
    assert len(list((tmp_path / "exported" / "files").iterdir())) == 5


def test_imported_image_of_the_catalog_is_not_built_again(new_home: Home, other: Home, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    image = read_manifest(write_image(tmp_path / "tiny", "tiny", made={"recipe": "tiny", "identity": "theirs"}))
    brought = bring(image, new_home, tmp_path / "exported", other)
    built = build_image("tiny", other, print)
    assert (built.disk, built.key) == (brought.disk, brought.key)
    # It is described as the one that was exported.
    assert export(built, other).image == export(image, new_home).image
    with pytest.raises(ConfigurationError, match="is an image of the catalog"):
        import_folder(tmp_path / "exported" / "tiny.json", other, print, "debian12")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has version 2 of the format"),
        ({"files": {}}, "files"),
        ({"files": {"../x": ["0" * 64, 1]}}, "files"),
        ({"files": {"disk": ["../../x", 1]}}, "files"),
        ({"files": {"disk": ["0" * 64, -1]}}, "files"),
        ({"files": {"disk": ["0" * 64, True]}}, "files"),
        ({"formats": []}, "formats"),
        ({"formats": ["raw", "raw"]}, "formats"),
        ({"formats": ["vmdk"]}, "formats"),
        ({"base": "../x"}, "base"),
        ({"manifest": {"name": "../../x"}}, "name"),
        ({"manifest": {"name": "own", "disk": "/etc/shadow"}}, "manifest"),
        ({"manifest": {"name": "own", "password": "x"}}, "password"),
        ({"manifest": []}, "not valid"),
        ({"manifest": {"name": "own", "cpus": "x"}}, "cpus"),
        ({"manifest": {"name": "own", "cmdline": "a\nb"}}, "cmdline"),
        ({"manifest": {"name": "own"}}, "missing"),
    ],
    ids=str,
)
def test_hostile_description_is_refused(
    base: Image, new_home: Home, other: Home, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = write_folder(export(base, new_home), tmp_path / "exported", print)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(XhyveError, match=message):
        import_folder(path, other, print)
    assert left_in(other) == []


@pytest.mark.parametrize(
    ("name", "exported"),
    [("../../evil", "evil"), ("/etc/evil", "etc-evil"), ("my, disk=1", "my-disk-1"), ("..", "image")],
)
def test_name_that_is_no_part_of_a_path(base: Image, new_home: Home, other: Home, name: str, exported: str) -> None:
    """A manifest may state any name; that of an export is a file's."""
    folder = new_home.path / "a" / "b"
    path = write_folder(export(replace(base, name=name), new_home), folder, print)
    assert path == folder / f"{exported}.json"
    described, image = import_folder(path, other, print)
    assert described.name == image.name == exported


def test_image_does_not_get_another_name_than_its_file(
    base: Image, new_home: Home, other: Home, tmp_path: Path
) -> None:
    """Such as that of an image of the catalog, whose place it would take."""
    path = write_folder(export(base, new_home), tmp_path / "exported", print)
    content = json.loads(path.read_text())
    content["manifest"]["name"] = "debian12"
    path.write_text(json.dumps(content))
    with pytest.raises(ImageError, match="describes an image named debian12"):
        import_folder(path, other, print)
    assert not left_in(other)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4)


def alter(path: Path) -> None:
    path.write_bytes(zstandard.compress(b"else" * 1024))


def lengthen(path: Path) -> None:
    path.write_bytes(zstandard.compress(b"disk" * 1024 + bytes(1 << 24)))


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [cut, alter, lengthen, link, fifo, empty, Path.unlink], ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("what", ["file", "description"])
def test_damaged_export_is_refused(
    base: Image, new_home: Home, other: Home, tmp_path: Path, harm: Callable[[Path], None], what: str
) -> None:
    path = write_folder(export(base, new_home), tmp_path / "exported", print)
    harm(path if what == "description" else tmp_path / "exported" / "files" / f"{base.sha256}.zst")
    with pytest.raises(ImageError):
        import_folder(path, other, print)
    assert left_in(other) == []


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img makes the layer")
@pytest.mark.parametrize("backing", ["/etc/passwd", "b", "json:{}"])
def test_layer_over_a_file_of_the_host_is_refused(
    base: Image, new_home: Home, other: Home, tmp_path: Path, backing: str
) -> None:
    """The description is right, but the layer itself names something else."""
    layer = make_layer(new_home, base, "layer", 1, tmp_path)
    argv = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, str(layer.disk)]
    good = export(layer, new_home)
    layer.disk.chmod(0o600)
    subprocess.run(argv, check=True)
    files = {
        **good.image.files,
        "disk": ExportedFile(digest_of(layer.disk), layer.disk.stat().st_size),
    }
    image = ExportedImage(good.image.manifest, good.image.base, good.image.formats, files)
    with importing(image, other, print) as importer:
        importer.missing()
        for name, file in image.files.items():
            content = layer.disk.read_bytes() if name == "disk" else good.contents[file.sha256].path.read_bytes()
            importer.add(file.sha256, [content])
        with pytest.raises(ImageError, match="not based on the next one"):
            importer.publish()
    assert left_in(other) == []


@pytest.mark.parametrize("member", ["../x", "files/../x", "/etc/x", "files/", "image.json"])
def test_hostile_stream_is_refused(base: Image, new_home: Home, other: Home, member: str) -> None:
    exported = export(base, new_home)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in (("image.json", json.dumps(exported.image.to_dict()).encode()), (member, b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    stream = io.BytesIO(zstandard.compress(archive.getvalue()))
    with pytest.raises(ImageError, match=r"unexpected file|has not come|does not have"):
        import_stream(stream, other, print)
    assert left_in(other) == []


@pytest.mark.parametrize("size", [0, 1, 100, -2000])
def test_stream_that_is_cut_off_is_refused(base: Image, new_home: Home, other: Home, size: int) -> None:
    stream = io.BytesIO()
    write_stream(export(base, new_home), stream)
    with pytest.raises(ImageError):
        import_stream(io.BytesIO(stream.getvalue()[:size]), other, print)
    assert left_in(other) == []


def test_killed_import_leaves_nothing_that_is_used(base: Image, new_home: Home, other: Home) -> None:
    stream = io.BytesIO()
    base.disk.write_bytes(os.urandom(1 << 20))
    manifest = base.manifest.read_text().replace("size: 4096", "size: 1048576")
    base.manifest.write_text(manifest.replace(str(base.sha256), digest_of(base.disk)))
    write_stream(export(read_manifest(base.manifest), new_home), stream)
    argv = [sys.executable, "-m", "pytest_xhyve.cli", "import", "-"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, env={**os.environ, HOME_VARIABLE: str(other.path)}) as process:
        assert process.stdin is not None
        process.stdin.write(stream.getvalue()[: 1 << 19])
        process.stdin.flush()
        assert becomes(lambda: any(size_of(path) for path in find_existing(other.path, "layers/.*/*")))
        process.send_signal(signal.SIGKILL)
    assert saved_manifest("own", other.path) is None
    assert not list(other.path.glob("layers/*/manifest.yaml"))
    import_stream(io.BytesIO(stream.getvalue()), other, print)
    assert not list(other.path.glob("layers/.*"))
    assert len(list(other.path.glob("layers/*/manifest.yaml"))) == 1


def test_names_of_disks_fit_anywhere() -> None:
    names = [disk_name(number) for number in range(17)]
    assert len(set(names)) == 17
    assert all(len(name) == 1 for name in names[1:])
