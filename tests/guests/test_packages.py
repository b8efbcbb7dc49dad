"""Packages from a repository that the test serves, and that the guest reaches at the host's address."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from debian_repository import NAME, build_package, publish
from listening import Recorder
from warm import LOG
from web_server import Site, serving

from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

# Under which address a guest of QEMU's user network reaches its host's loopback interface (QEMU's documentation).
HOST = "10.0.2.2"


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    """A recipe over debian12 that installs a package of a repository of the test's."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    package = build_package(tmp_path / "package")
    folder = tmp_path / "hello"
    folder.mkdir()
    with serving(Site()) as site:
        publish(site, package)
        port = site.url.rpartition(":")[2]
        (folder / "sources.list").write_text(f"deb [trusted=yes] http://{HOST}:{port}/ ./\n")
        (folder / "recipe.yaml").write_text(
            f"extends: debian12\nfiles: {{/etc/apt/sources.list: sources.list}}\npackages: [{NAME}]\n"
        )
        yield folder


@pytest.mark.thorough
def test_recipe_installs_a_package(home: Home, recipe: Path) -> None:
    said: list[str] = []
    with closing(Fleet(Settings(hypervisor="qemu"), home, Recorder(said))) as fleet:
        begin = monotonic()
        image = fleet.catalog.find(str(recipe))
        LOG.info("a layer that installs one package: %.1f s", monotonic() - begin)
        with fleet.start(ForegroundRequest(GuestSpec(image="debian12"))) as guest:
            begin = monotonic()
            guest.put(recipe / "sources.list", "/etc/apt/sources.list")
            guest.run(f"apt-get update && apt-get install -y {NAME}", timeout=300)
            guest.shutdown()
            LOG.info("the same by hand in a running guest: %.1f s", monotonic() - begin)
        with fleet.start(ForegroundRequest(GuestSpec(image=image, start="cold"))) as guest:
            assert guest.run([NAME]).stdout == "hello\n"
