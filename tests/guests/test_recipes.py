"""Recipes of a project: built once for each content, in a guest, and what is reported if that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from command_line import run_separately
from foreign import make_foreign_disk
from listening import Recorder
from web_server import Site, lay_out, mirrors, serving

from pytest_xhyve import ImageError
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.images.layers import LayerStore
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

STEP = r"cannot build db: step {} of {} \(`{}`\) "


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    folder = tmp_path / "recipes"
    folder.mkdir()
    return folder


@pytest.fixture
def fleet(home: Home, recipes: Path, said: list[str]) -> Iterator[Fleet]:
    with closing(Fleet(Settings(hypervisor="qemu", recipes=(recipes,)), home, Recorder(said))) as fleet:
        yield fleet


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(text)
    return folder


def layers(home: Home) -> list[str]:
    return [layer.image.name for layer in LayerStore(home).all()]


def test_recipe_is_built_once_per_content(
    fleet: Fleet, home: Home, recipes: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "extends: tiny\nfiles: {/etc/app: app, /usr/bin/: tool}\nrun: [tool >> /etc/app/log, id -u >> /etc/app/log]\n"
    )
    db = write(recipes / "db", text)
    (db / "app").mkdir()
    (db / "app" / "conf").write_text("a = 1\n")
    (db / "tool").write_text("#!/bin/sh\necho built\n")
    (db / "tool").chmod(0o755)
    write(recipes / "web", "extends: db\nrun: ['test -f /etc/app/conf && echo web >> /etc/app/log']\nmemory: 128M\n")
    with fleet.start(ForegroundRequest(GuestSpec(image="web", start="cold"))) as guest:
        assert guest.run("cat /etc/app/conf /etc/app/log").stdout == "a = 1\nbuilt\n0\nweb\n"
        assert (guest.image.name, guest.machine.memory) == ("web", 128 << 20)
    assert (layers(home), [line.split()[1] for line in said if line.startswith("built ")]) == (
        ["db", "web"],
        ["db", "web"],
    )
    # Another process finds them, by the path as well.
    monkeypatch.setenv(HOME_VARIABLE, str(home.path))
    for name in ("web", str(recipes / "web")):
        done = run_separately("build", name, "--recipes", str(recipes))
        assert (done.exit_code, done.stderr) == (0, ""), done.output


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (
            "run: ['true', 'echo first; echo reason >&2; exit 3']",
            STEP.format(2, 2, "echo first.*") + r"failed with exit code 3\n    first\n    reason",
        ),
        (
            "run: ['echo waiting; sleep 600']\ntimeout: 0.5",
            STEP.format(1, 1, "echo waiting.*") + r"did not end within [0-9.]+ s\n    waiting",
        ),
        pytest.param("run: [reboot -f]", "restarted or stopped the guest", marks=pytest.mark.thorough),
        (
            "run: ['mount -t tmpfs -o size=64k none /mnt && dd if=/dev/zero of=/mnt/x bs=1000 count=100']",
            r"(?s)No space left on device.*\n  the disk is full: `size:` in .*db/recipe.yaml makes it larger",
        ),
        pytest.param(
            "packages: [jq]",
            "installing jq failed with exit code 1\n    no package manager found",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "files: {/proc/nowhere/x: recipe.yaml}",
            r"file 1 of 1 \(/proc/nowhere/x\) failed",
            marks=pytest.mark.thorough,
        ),
    ],
    ids=["fails", "hangs", "restarts", "fills the disk", "no package manager", "no such place"],
)
def test_failing_step_keeps_nothing(fleet: Fleet, home: Home, recipes: Path, keys: str, problem: str) -> None:
    write(recipes / "db", f"extends: tiny\n{keys}\n")
    with pytest.raises(ImageError, match=problem) as caught:
        fleet.catalog.find("db")
    assert "pytest-xhyve shell tiny" in str(caught.value)
    assert [path for path in home.folder("layers").iterdir() if path.is_dir()] == []


@pytest.mark.thorough
@pytest.mark.parametrize("base", ["tiny", "debian12"])
def test_file_system_of_a_layer_is_clean(fleet: Fleet, recipes: Path, tmp_path: Path, base: str) -> None:
    """The guest of a build is shut down: its root was unmounted, and has all that the last step wrote."""
    write(recipes / "db", f"extends: {base}\nrun: ['seq 100000 > /root/numbers']\n")
    disk = fleet.catalog.find("db").disk
    raw = tmp_path / "disk"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(disk), str(raw)], check=True)
    header = subprocess.run(["dumpe2fs", "-h", str(raw)], check=True, capture_output=True, text=True).stdout
    assert "needs_recovery" not in header
    assert any(line.split() == ["Filesystem", "state:", "clean"] for line in header.splitlines())
    assert subprocess.run(["e2fsck", "-fn", str(raw)], check=False, capture_output=True).returncode == 0
    cat = ["debugfs", "-R", "cat /root/numbers", str(raw)]
    assert len(subprocess.run(cat, check=True, capture_output=True).stdout.splitlines()) == 100_000


@pytest.mark.thorough
def test_two_builds_of_one_recipe_make_one_layer(fleet: Fleet, home: Home, recipes: Path, said: list[str]) -> None:
    write(recipes / "db", "extends: tiny\nrun: ['sleep 1.5; echo x > /x']\n")
    with closing(Fleet(Settings(hypervisor="qemu", recipes=(recipes,)), home, Recorder(said))) as other:
        threads = [threading.Thread(target=each.catalog.find, args=["db"]) for each in (fleet, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (layers(home), sum("building db" in line for line in said)) == (["db"], 1)
    assert any("waiting for another process" in line for line in said)


@pytest.mark.thorough
def test_fixture_builds_an_image(pytester: pytest.Pytester, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(home.path))
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def db(xhyve_images):
            return xhyve_images.build(extends="tiny", run=["echo 1 > /db"], name="db")

        def test_db(db, xhyve_guest_factory):
            with xhyve_guest_factory(image=db) as guest:
                assert guest.run("cat /db").stdout == "1\\n"
        """
    )
    result = pytester.runpytest("--xhyve-image=tiny", "--xhyve-hypervisor=qemu", "--xhyve-start=cold")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*building db over tiny: *"])
    assert layers(home) == ["db"]


@pytest.mark.thorough
def test_recipe_over_a_pulled_image(home: Home, tmp_path: Path, said: list[str]) -> None:
    """A disk as a distribution publishes it: pulled, prepared, and extended."""
    disk = tmp_path / "disk.qcow2"
    raw = make_foreign_disk(tmp_path / "foreign.img")
    subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", str(raw), str(disk)], check=True)
    recipe = tmp_path / "db"
    recipe.mkdir()
    (recipe / "recipe.yaml").write_text("extends: debian-12\nrun: ['echo 1 > /db']\n")
    with serving(Site()) as site:
        lay_out(site, disk.read_bytes())
        settings = Settings(hypervisor="qemu", mirror=tuple(mirrors(site)))
        with closing(Fleet(settings, home, Recorder(said))) as fleet:
            guest = fleet.start(ForegroundRequest(GuestSpec(image=str(recipe), start="cold")))
            assert guest.run("cat /db").stdout == "1\n"
            assert guest.image.extends is not None
            assert guest.image.extends.image == "debian-12"
    # Without a network, and in another place.
    elsewhere = Home(tmp_path / "elsewhere")
    shutil.copytree(home.path, elsewhere.path, ignore=shutil.ignore_patterns("templates", "runs", "test-*"))
    with closing(Fleet(settings._replace(offline=True), elsewhere, Recorder(said))) as fleet:
        said.clear()
        guest = fleet.start(ForegroundRequest(GuestSpec(image=str(recipe), start="cold")))
        assert guest.run("cat /db").stdout == "1\n"
    assert not [line for line in said if "prepar" in line or "building" in line]


@pytest.mark.thorough
def test_killed_build_is_done_again(fleet: Fleet, home: Home, recipes: Path) -> None:
    db = write(recipes / "db", "extends: tiny\nrun: ['sleep 3; echo x > /x']\n")
    argv = [sys.executable, "-m", "pytest_xhyve.cli", "build", str(db)]
    environment = {**os.environ, HOME_VARIABLE: str(home.path)}
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True) as building:
        assert building.stderr is not None
        while "step 1" not in (line := building.stderr.readline()):
            assert line, "the build ended"
        building.kill()
    assert LayerStore(home).all() == []
    assert fleet.catalog.find("db").name == "db"
    assert [path.name for path in home.folder("layers").iterdir() if path.name.startswith(".")] == []
