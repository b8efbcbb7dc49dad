"""Pruning beside real guests."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pytest_xhyve.cli.cache_listing import CacheListing
from pytest_xhyve.cli.prune import remove
from pytest_xhyve.cli.prune_candidates import find_candidates
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.clone import clone_by_copy
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec


@pytest.fixture
def own_home(tmp_path: Path) -> Home:
    """A folder of the plugin's that shares nothing with others but what no prune touches; it has the image ``tiny``."""
    user, home = Home.of_user(), Home(tmp_path / "home")
    home.path.mkdir()
    for name in ("acceleration", "keys"):
        (home.path / name).symlink_to(user.folder(name))
    manifest = user.folder("images") / "tiny.yaml"
    build = read_manifest(manifest).disk.parent
    target = home.folder("images") / build.name
    target.mkdir()
    for file in build.iterdir():
        clone_by_copy(file, target / file.name)
    shutil.copy2(manifest, home.folder("images"))
    return home


@pytest.fixture
def fleet(own_home: Home) -> Iterator[Fleet]:
    with closing(Fleet(Settings(hypervisor="qemu"), own_home)) as fleet:
        yield fleet


@pytest.mark.thorough
def test_template_of_a_living_guest_stays(fleet: Fleet, own_home: Home) -> None:
    with fleet.start(ForegroundRequest(GuestSpec(image="tiny", start="warm"))) as guest:
        assert [template.in_use for template in CacheListing.scan(own_home).templates] == [True]
        assert remove(find_candidates(own_home, images=True), own_home).removed == ()
        assert guest.run("echo alive").stdout == "alive\n"
        guest.kill()
        # It stands on the template's disk also while it is off.
        assert remove(find_candidates(own_home, images=True), own_home).removed == ()
        guest.start()
        assert guest.run("echo again").stdout == "again\n"
    assert [template.in_use for template in CacheListing.scan(own_home).templates] == [False]
    # The run remembers the image.
    assert [piece.kind for piece in remove(find_candidates(own_home, images=True), own_home).removed] == ["template"]
    assert CacheListing.scan(own_home).templates == ()
    with fleet.start(ForegroundRequest(GuestSpec(image="tiny", start="warm"))) as guest:
        assert guest.run("echo anew").stdout == "anew\n"
    fleet.close()
    removed = remove(find_candidates(own_home, images=True), own_home).removed
    assert {piece.kind for piece in removed} == {"template", "image", "digests"}


@pytest.mark.thorough
def test_image_stays_that_a_run_is_about_to_use(fleet: Fleet, own_home: Home) -> None:
    started = threading.Event()
    removed: list[str] = []

    def prune() -> None:
        while not started.wait(0.05):
            removed.extend(piece.kind for piece in remove(find_candidates(own_home, images=True), own_home).removed)

    # The first guest of a run reads the whole image; without the run, it would go meanwhile.
    fleet._run.get()
    pruning = threading.Thread(target=prune)
    pruning.start()
    try:
        with fleet.start(ForegroundRequest(GuestSpec(image="tiny", start="cold"))) as guest:
            assert guest.run("echo alive").stdout == "alive\n"
    finally:
        started.set()
        pruning.join()
    assert "image" not in removed
