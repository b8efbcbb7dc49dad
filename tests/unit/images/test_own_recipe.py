"""Recipes of a project: which are accepted, what their content is, and where they are found."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_images import write_image

from pytest_xhyve.images.catalog import read_recipes
from pytest_xhyve.images.own_recipe import parse_own_recipe, read_own_recipe
from pytest_xhyve.images.places import Places
from pytest_xhyve.images.sources import Source, find_source, resolve_path
from pytest_xhyve.model.errors import ConfigurationError


def write(folder: Path, text: str = "extends: tiny\n") -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(text)
    return folder


def test_all_keys(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "db",
        "extends: tiny\npackages: [jq, libc6-dev]\nfiles: {/etc/app.conf: app.conf}\nrun: ['true', \"x=1\\necho $x\"]\n"
        "size: 2G\ncpus: 2\nmemory: 512M\ntimeout: 30\n",
    )
    (folder / "app.conf").write_text("a = 1\n")
    recipe = read_own_recipe(folder)
    assert (recipe.name, recipe.extends, recipe.packages) == ("db", "tiny", ("jq", "libc6-dev"))
    assert (recipe.size, recipe.cpus, recipe.memory, recipe.timeout) == (2 << 30, 2, 512 << 20, 30.0)
    assert (recipe.files, len(recipe.run)) == ({"/etc/app.conf": folder / "app.conf"}, 2)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("extends: tiny\npackges: [jq]\n", r"recipe.yaml: unknown key 'packges'; did you mean packages"),
        ("packages: [jq]\n", "missing extends"),
        ("extends: tiny\nextends: debian12\n", "duplicate key 'extends'"),
        ("- tiny\n", "a recipe is a mapping"),
        ("extends: tiny\npackages: jq\n", "packages: expected a list"),
        ("extends: tiny\npackages: [-y]\n", "'-y' is not the name of a package"),
        ("extends: tiny\nrun: [1]\n", "run: 1 is not a line for the guest's shell; put it in quotes"),
        ("extends: tiny\nfiles: {etc/x: x}\n", "'etc/x' is not an absolute path in the guest"),
        ("extends: tiny\nfiles: {/etc/x: gone}\n", r"files: cannot read .*gone: No such file"),
        ("extends: tiny\nfiles: {/etc/x: ../secret}\n", "secret leads out of the recipe's folder"),
        ("extends: tiny\nfiles: {/etc/x: /etc/passwd}\n", "/etc/passwd leads out of the recipe's folder"),
        ("extends: tiny\nfiles: {/etc: tree}\n", r"tree/link leads out of the recipe's folder, to /etc/passwd"),
        ("extends: tiny\nfiles: {/etc: fifo}\n", "fifo is neither a file nor a folder"),
        ("extends: tiny\nsize: big\n", "size: 'big' is not a size"),
        ("extends: tiny\ntimeout: 0\n", "timeout: 0 is not"),
    ],
)
def test_bad_recipe(tmp_path: Path, text: str, problem: str) -> None:
    folder = write(tmp_path / "db", text)
    (tmp_path / "secret").touch()
    (folder / "tree").mkdir()
    (folder / "tree" / "link").symlink_to("/etc/passwd")
    os.mkfifo(folder / "fifo")
    with pytest.raises(ConfigurationError, match=problem):
        read_own_recipe(folder)


def test_name_of_the_catalog(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="tiny is an image of the catalog"):
        read_own_recipe(write(tmp_path / "tiny"))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "app" / "conf").write_text("2"),
        lambda folder: (folder / "app" / "conf").chmod(0o755),
        lambda folder: (folder / "app" / "more").touch(),
        lambda folder: (folder / "recipe.yaml").write_text("extends: tiny\nrun: ['false']\nfiles: {/app: app}\n"),
    ],
    ids=["content", "mode", "new file", "step"],
)
def test_content_changes_with_what_goes_in(tmp_path: Path, change: Callable[[Path], object]) -> None:
    folder = write(tmp_path / "db", "extends: tiny\nrun: ['true']\nfiles: {/app: app}\n")
    (folder / "app").mkdir()
    (folder / "app" / "conf").write_text("1")
    (folder / "app" / "conf").chmod(0o644)
    before = read_own_recipe(folder).content()
    os.utime(folder / "app" / "conf", (1, 1))
    (folder / "notes").touch()
    assert read_own_recipe(folder).content() == before
    change(folder)
    assert read_own_recipe(folder).content() != before


def test_content_does_not_depend_on_the_place(tmp_path: Path) -> None:
    text = "extends: tiny\nfiles: {/app: app}\n"
    one, other = write(tmp_path / "a" / "db", text), write(tmp_path / "b" / "db", text)
    for folder in (one, other):
        (folder / "app").write_text("1")
    assert read_own_recipe(one).content() == read_own_recipe(other).content()


def test_recipe_by_path_and_by_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "recipes" / "db")
    places = Places(recipes=(tmp_path / "recipes",))
    for path in (folder, folder / "recipe.yaml"):
        assert find_source(path) == Source(own=folder)
        assert resolve_path("recipes/db", tmp_path, Places()) == str(folder)
    assert find_source("db", places=places) == Source(own=folder, by_name=True)
    assert resolve_path("db", Path("/nowhere"), places) == "db"
    with pytest.raises(ConfigurationError, match=r"image 'dba' not found; did you mean db"):
        find_source("dba", places=places)
    with pytest.raises(ConfigurationError, match="gone is not a folder"):
        find_source("db", places=Places(recipes=(tmp_path / "gone",)))


def test_two_recipes_of_one_name(tmp_path: Path) -> None:
    write(tmp_path / "a" / "db")
    write(tmp_path / "b" / "db")
    write(tmp_path / "b" / "tiny")
    places = Places(recipes=(tmp_path / "a", tmp_path / "b"))
    for name in ("db", "tiny"):
        with pytest.raises(ConfigurationError, match=f"two recipes are named {name}: .*{name} and .*b/{name}"):
            find_source(name, places=places)


def test_chain_of_recipes(tmp_path: Path) -> None:
    places = Places(recipes=(tmp_path,))
    write(tmp_path / "web", "extends: db\n")
    write(tmp_path / "db", "extends: ../disk.img\n")
    with pytest.raises(ConfigurationError, match=r"db/recipe.yaml: extends: image '../disk.img' not found"):
        read_recipes(tmp_path / "web", places)
    write_image(tmp_path, "disk")
    recipes, base = read_recipes(tmp_path / "web", places)
    assert ([recipe.name for recipe in recipes], Path(base).resolve()) == (["web", "db"], tmp_path / "disk.img")


@pytest.mark.parametrize("last", ["web", "db"])
def test_circle(tmp_path: Path, last: str) -> None:
    places = Places(recipes=(tmp_path,))
    write(tmp_path / "web", "extends: db\n")
    write(tmp_path / "db", f"extends: {last}\n")
    with pytest.raises(ConfigurationError, match=f"extend each other in a circle: web extends db extends {last}"):
        read_recipes(tmp_path / "web", places)


def test_recipe_of_a_test(tmp_path: Path) -> None:
    (tmp_path / "conf").touch()
    recipe = parse_own_recipe({"extends": "tiny", "files": {"/etc/x": tmp_path / "conf"}}, "built", None)
    assert recipe.content()["files"]["/etc/x"][0][:2] == [".", "file"]
    assert recipe.where == "built"
