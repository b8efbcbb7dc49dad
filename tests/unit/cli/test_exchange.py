"""``pytest-xhyve export`` and ``import`` of what it wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import run_separately
from fake_images import write_image

from pytest_xhyve.host.home import HOME_VARIABLE, Home

PROGRAM = [sys.executable, "-m", "pytest_xhyve.cli"]


@pytest.fixture
def other(tmp_path: Path) -> str:
    return str(tmp_path / "other")


def test_images_of_one_folder(new_home: Home, tmp_path: Path, other: str) -> None:
    folder = tmp_path / "exported"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        done = run_separately("export", str(write_image(tmp_path / name, name)), str(folder))
        assert (done.exit_code, f"exported {name}; a private key is in it" in done.stderr) == (0, True), done.stderr
    done = run_separately("import", str(folder), **{HOME_VARIABLE: other})
    assert done.exit_code == 0, done.stderr
    manifests = list(yaml.safe_load_all(done.stdout))
    assert [manifest["name"] for manifest in manifests] == ["one", "two"]
    assert all(Path(manifest["disk"]).is_relative_to(other) for manifest in manifests)
    shown = run_separately("images", **{HOME_VARIABLE: other}).stdout
    assert "one " in shown
    assert "two " in shown
    done = run_separately("import", str(folder), "--name", "three", **{HOME_VARIABLE: other})
    assert (done.exit_code, "has several images (one, two)" in done.stderr) == (2, True)


def test_pipe(new_home: Home, tmp_path: Path, other: str) -> None:
    manifest = str(write_image(tmp_path))
    with subprocess.Popen([*PROGRAM, "export", manifest, "-"], stdout=subprocess.PIPE) as exporting:
        argv = [*PROGRAM, "import", "-", "--name", "piped"]
        environment = {**os.environ, HOME_VARIABLE: other}
        done = subprocess.run(
            argv, stdin=exporting.stdout, capture_output=True, text=True, env=environment, check=False
        )
    assert (exporting.returncode, done.returncode) == (0, 0), done.stderr
    assert yaml.safe_load(done.stdout)["name"] == "piped"


@pytest.mark.parametrize(
    "typed", [b"x", *(pytest.param(typed, marks=pytest.mark.thorough) for typed in (b"", b"\x28\xb5\x2f\xfd"))]
)
def test_what_is_not_an_export(new_home: Home, typed: bytes, other: str) -> None:
    environment = {**os.environ, HOME_VARIABLE: other}
    done = subprocess.run(
        [*PROGRAM, "import", "-"], input=typed, capture_output=True, env=environment, check=False, timeout=60
    )
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr
    assert b"Error: " in done.stderr


def test_folder_without_exports(new_home: Home, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    done = run_separately("import", str(tmp_path))
    assert (done.exit_code, "is a folder without recipe.yaml" in done.stderr) == (2, True)
