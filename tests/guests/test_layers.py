"""Layers over images: guests that are saved, and guests of what they became."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
from command_line import run_separately
from killing import processes_of
from waiting import becomes
from warm import is_warm

from pytest_xhyve import ConfigurationError, Guest, NotSupported
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.digests import digest_of
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.host.vanishing import find_existing
from pytest_xhyve.images.backing import backing_files
from pytest_xhyve.images.layers import LayerStore
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec


@pytest.fixture
def fleet(home: Home) -> Iterator[Fleet]:
    with closing(Fleet(Settings(hypervisor="qemu"), home)) as fleet:
        yield fleet


def start(fleet: Fleet, image: str | Image, **keys: object) -> Guest:
    return fleet.start(ForegroundRequest(GuestSpec.parse(image=image, **keys)))


@pytest.mark.long
@pytest.mark.parametrize("depth", [1, pytest.param(3, marks=pytest.mark.thorough)])
def test_saved_guest_is_an_image(fleet: Fleet, home: Home, monkeypatch: pytest.MonkeyPatch, depth: int) -> None:
    image: str | Image = "tiny"
    disk = fleet.catalog.find(image).disk
    before = digest_of(disk)
    for number in range(1, depth + 1):
        # The first is restored from a template, which the layer does not need afterwards.
        with start(fleet, image, start="warm" if number == 1 else "cold") as guest:
            guest.run(f"echo {number} >> /etc/layers")
            image = guest.save_as_image(f"layer-{number}")
    assert isinstance(image, Image)
    assert (image.name, len(backing_files(image.disk, "qcow2"))) == (f"layer-{depth}", depth)
    assert fleet.catalog.find(f"layer-{depth}") == image
    with start(fleet, image, start="warm") as guest:
        assert is_warm(guest)
        written = "".join(f"{number}\n" for number in range(1, depth + 1))
        assert guest.run("cat /etc/layers; hostname").stdout == f"{written}{guest.name}\n"
    assert digest_of(disk) == before
    monkeypatch.setenv(HOME_VARIABLE, str(home.path))
    shown = run_separately("images").stdout
    assert all(f"{'  ' * number}layer-{number} " in shown for number in range(1, depth + 1))


@pytest.mark.thorough
def test_saved_guest_starts_again(fleet: Fleet) -> None:
    with start(fleet, "tiny") as guest:
        guest.run("echo kept > /etc/kept")
        guest.save_as_image("kept")
        guest.start()
        assert guest.run("cat /etc/kept").stdout == "kept\n"


def test_guest_that_cannot_be_saved(fleet: Fleet, home: Home) -> None:
    with start(fleet, "tiny", disks=["1M"]) as guest:
        with pytest.raises(NotSupported, match="has 2 disks, and an image has one"):
            guest.save_as_image("two-disks")
        with pytest.raises(ConfigurationError, match="tiny is an image of the catalog"):
            guest.save_as_image("tiny")
        assert guest.is_healthy()
    assert LayerStore(home).all() == []


@pytest.mark.thorough
def test_run_saves_the_guest(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(home.path))
    # ssh inherits the standard streams, which the runner replaces in Python only.
    done = run_separately("run", "tiny", "--save-as", "mine", "echo kept > /etc/mine")
    assert (done.exit_code, "saved mine" in done.stderr) == (0, True), done.output
    assert run_separately("run", "mine", "--start=cold", "grep -q kept /etc/mine").exit_code == 0
    failed = run_separately("run", "tiny", "--save-as", "other", "exit 3")
    assert (failed.exit_code, "other was not saved" in failed.stderr) == (3, True)
    assert [layer.names for layer in LayerStore(home).all()] == [("mine",)]
    assert run_separately("run", "tiny", "--save-as", "a/b", "true").exit_code == 2


@pytest.mark.thorough
def test_killed_while_it_saves(fleet: Fleet, home: Home) -> None:
    folder = home.folder("layers")
    argv = [sys.executable, "-m", "pytest_xhyve.cli", "run", "tiny", "--save-as", "mine", "true"]
    environment = {**os.environ, HOME_VARIABLE: str(home.path)}
    with subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        try:
            assert becomes(lambda: bool(find_existing(folder, ".saving.*/*")), 300)
        finally:
            killed.kill()
    assert becomes(lambda: not processes_of(home), 30), processes_of(home)
    assert all(digest_of(layer.image.disk) == layer.image.sha256 for layer in LayerStore(home).all())
    with start(fleet, "tiny") as guest:
        image = guest.save_as_image("mine")
    assert digest_of(image.disk) == image.sha256
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
