"""A cache folder that was moved or that another host made, and an image that was: their templates are used."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

import pytest
import yaml
from warm import fleet_of, is_warm, template_of, templates

from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.backing import backing_files
from pytest_xhyve.images.manifest import as_manifest
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.spec import GuestSpec

_FOLDERS = ("images", "templates", "keys", "layers", "saved", "acceleration")


def copy_cache(home: Home, path: Path, names: Collection[str]) -> Home:
    """Copy a cache folder as CI does: with other times, in another place; of folders, only those of *names*."""
    copy = Home(path)
    for folder in (home.path / name for name in _FOLDERS if (home.path / name).is_dir()):
        copy.folder(folder.name)
        for each in folder.iterdir():
            if each.is_dir() and each.name in names:
                subprocess.run(["cp", "-R", "--sparse=always", str(each), str(copy.path / folder.name)], check=True)
            elif each.is_file() and each.suffix not in (".lock", ".log"):
                shutil.copy(each, copy.path / folder.name)
    return copy


def test_cache_of_another_place(tmp_path: Path, said: list[str]) -> None:
    user = Home.of_user()
    with fleet_of(user, []) as fleet, fleet.start(ForegroundRequest(GuestSpec())) as guest:
        names = {guest.image.disk.parent.name, template_of(guest).name}
    home = copy_cache(user, tmp_path / "moved", names)
    with fleet_of(home, said) as fleet, fleet.start(ForegroundRequest(GuestSpec())) as guest:
        assert guest.run("echo moved").stdout == "moved\n"
        assert template_of(guest).is_relative_to(home.path)
        assert all(
            path.resolve().is_relative_to(home.path) for path in backing_files(guest.machine.disks[0].path, "qcow2")
        )
    assert not [line for line in said if "build" in line]


@pytest.mark.thorough
def test_layers_of_another_place(tmp_path: Path, said: list[str]) -> None:
    """Layers over layers, and a template of the top one."""
    user = Home.of_user()
    with fleet_of(user, []) as fleet:
        names = {fleet.catalog.find("tiny").disk.parent.name}
    first = copy_cache(user, tmp_path / "first", names)
    image: str | Image = "tiny"
    with fleet_of(first, [], start="cold") as fleet:
        for number in (1, 2):
            with fleet.start(ForegroundRequest(GuestSpec.parse(image=image))) as guest:
                guest.run(f"echo {number} >> /etc/layers")
                image = guest.save_as_image(f"layer-{number}")
    with fleet_of(first, [], image="layer-2") as fleet:
        fleet.start(ForegroundRequest(GuestSpec()))
    everything = {each.name for name in _FOLDERS for each in (first.path / name).iterdir()}
    second = copy_cache(first, tmp_path / "second", everything)
    first.path.rename(tmp_path / "gone")
    with fleet_of(second, said, image="layer-2") as fleet, fleet.start(ForegroundRequest(GuestSpec())) as guest:
        assert is_warm(guest)
        assert guest.run("cat /etc/layers").stdout == "1\n2\n"
    assert not [line for line in said if "build" in line]


@pytest.mark.thorough
def test_image_of_another_place(tmp_path: Path, other_home: Home, said: list[str]) -> None:
    """A project with its own image that is checked out elsewhere: the template is put over the image where it is."""
    project = tmp_path / "project"
    project.mkdir()
    with fleet_of(Home.of_user(), []) as fleet:
        tiny = fleet.catalog.find("tiny")
    subprocess.run(["cp", "--sparse=always", str(tiny.disk), str(project / "own.img")], check=True)
    (project / "own.yaml").write_text(yaml.safe_dump(as_manifest(tiny) | {"name": "own", "disk": "own.img"}))
    with fleet_of(other_home, said, image=str(project / "own.yaml")) as fleet:
        fleet.start(ForegroundRequest(GuestSpec()))
    assert [line for line in said if line.startswith("built the template")]
    said.clear()
    moved = project.rename(tmp_path / "elsewhere")
    # It is not taken from where it was, even if something else is there now.
    project.mkdir()
    (project / "own.img").write_bytes(os.urandom(1 << 16))
    for _ in range(2):
        with fleet_of(other_home, said, image=str(moved / "own.yaml")) as fleet:
            guest = fleet.start(ForegroundRequest(GuestSpec()))
            guest.run("echo moved > /etc/moved && sync")
            files = backing_files(guest.machine.disks[0].path, "qcow2")
            assert (is_warm(guest), files[-1].resolve()) == (True, moved / "own.img")
    assert said == []
    assert len(templates(other_home)) == 1
