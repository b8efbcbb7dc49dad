from __future__ import annotations

import platform
from pathlib import Path

import pytest
import yaml

from pytest_xhyve.images.recipe import find_catalog_name, name_here, read_recipe, recipe_names
from pytest_xhyve.model.architecture import ARM64, X86_64
from pytest_xhyve.model.errors import ConfigurationError

BASE = {
    "summary": "the base",
    "suite": "bookworm",
    "variant": "extract",
    "packages": ["busybox"],
    "disk": "1G",
    "boot_modules": ["virtio_blk"],
    "cmdline": "root=/dev/vda",
    "user": "root",
    "cpus": 1,
    "memory": "256M",
}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """A recipe ``base``, a ``variant`` of it, and a ``third`` of that."""
    write(tmp_path / "initrd/init", "#!init")
    write(tmp_path / "base/recipe.yaml", yaml.safe_dump(BASE))
    write(tmp_path / "base/customize", "#!base")
    write(tmp_path / "base/files/etc/one", "1")
    write(tmp_path / "base/files/etc/two", "2")
    write(tmp_path / "variant/recipe.yaml", "extends: base\npartitioned: true\ncmdline: root=/dev/vda1\n")
    write(tmp_path / "third/recipe.yaml", "extends: variant\nmemory: 1G\npackages: [dropbear]\n")
    write(tmp_path / "more/recipe.yaml", "extends: variant\nadd_packages: [jq, git]\n")
    return tmp_path


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_read(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.customize.is_file()
    assert recipe.init.is_file()
    assert recipe.files
    assert recipe.digest() == read_recipe(name).digest()


def test_the_catalog() -> None:
    assert recipe_names() == ("debian12", "debian12-tools", "tiny", "tiny-partitioned")
    tiny, partitioned = read_recipe("tiny"), read_recipe("tiny-partitioned")
    assert not tiny.partitioned
    assert partitioned.partitioned
    # What the base says is said once more, so it must not drift.
    assert partitioned.cmdline == tiny.cmdline.replace("root=/dev/vda ", "root=/dev/vda1 ro ")
    assert (partitioned.packages, partitioned.files) == (tiny.packages, tiny.files)


def test_keys_are_the_bases_but_for_its_own(recipes: Path) -> None:
    base, variant, third = (read_recipe(name, recipes) for name in ("base", "variant", "third"))
    assert (base.name, base.cmdline, base.partitioned) == ("base", "root=/dev/vda", False)
    assert (variant.name, variant.cmdline, variant.partitioned) == ("variant", "root=/dev/vda1", True)
    assert (variant.packages, variant.memory) == (base.packages, base.memory)
    assert (third.name, third.cmdline, third.partitioned) == ("third", "root=/dev/vda1", True)
    assert (third.packages, third.memory) == (("dropbear",), "1G")
    assert read_recipe("more", recipes).packages == ("busybox", "jq", "git")


def test_files_are_the_bases_but_for_its_own(recipes: Path) -> None:
    own = write(recipes / "variant/files/etc/two", "two")
    for name in ("variant", "third"):
        recipe = read_recipe(name, recipes)
        assert recipe.customize == recipes / "base/customize"
        assert recipe.init == recipes / "initrd/init"
        assert recipe.files == {
            "etc": recipes / "variant/files/etc",
            "etc/one": recipes / "base/files/etc/one",
            "etc/two": own,
        }
    customize = write(recipes / "variant/customize", "#!variant")
    assert read_recipe("third", recipes).customize == customize
    assert read_recipe("base", recipes).customize == recipes / "base/customize"


@pytest.mark.parametrize(
    ("changed", "others"),
    [
        ("initrd/init", {"base", "variant", "third"}),
        ("base/customize", {"base", "variant", "third"}),
        ("base/files/etc/new", {"base", "variant", "third"}),
        ("variant/files/etc/new", {"variant", "third"}),
        ("third/customize", {"third"}),
    ],
)
def test_digest_covers_the_base(recipes: Path, changed: str, others: set[str]) -> None:
    names = ("base", "variant", "third")
    before = {name: read_recipe(name, recipes).digest() for name in names}
    assert len(set(before.values())) == 3
    write(recipes / changed, "changed")
    assert {name for name in names if read_recipe(name, recipes).digest() != before[name]} == others


@pytest.mark.parametrize(
    ("machine", "word", "name"),
    [
        ("x86_64", "tiny", "tiny"),
        ("x86_64", "tiny-amd64", "tiny"),
        ("x86_64", "tiny-x86_64", "tiny"),
        ("x86_64", "tiny-arm64", "tiny-aarch64"),
        ("x86_64", "tiny-partitioned-aarch64", "tiny-partitioned-aarch64"),
        ("arm64", "tiny", "tiny"),
        ("aarch64", "tiny-arm64", "tiny"),
        ("aarch64", "tiny-amd64", "tiny-x86_64"),
        # On a host of no known kind, guests of x86-64 are emulated.
        ("riscv64", "tiny-x86_64", "tiny"),
        ("x86_64", "tiny-riscv64", None),
        ("x86_64", "small-aarch64", None),
        ("x86_64", "-aarch64", None),
    ],
)
def test_image_has_one_name(monkeypatch: pytest.MonkeyPatch, machine: str, word: str, name: str | None) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert find_catalog_name(word) == name


@pytest.mark.parametrize(
    ("name", "arch", "here"),
    [
        ("tiny", "x86_64", "tiny"),
        ("tiny", "aarch64", "tiny-aarch64"),
        ("tiny-aarch64", "aarch64", "tiny-aarch64"),
        ("tiny-x86_64", "x86_64", "tiny"),
        ("own", "aarch64", "own"),
        ("own-aarch64", "", "own-aarch64"),
    ],
)
def test_name_of_an_image_of_another_host(monkeypatch: pytest.MonkeyPatch, name: str, arch: str, here: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert name_here(name, arch) == here


def test_recipe_for_another_architecture() -> None:
    here, there = read_recipe("tiny-amd64"), read_recipe("tiny-arm64")
    assert (here.architecture, there.architecture) == (X86_64, ARM64)
    assert "linux-image-cloud-arm64" in there.packages
    assert "linux-image-cloud-amd64" in here.packages
    assert " console=ttyAMA0 " in there.cmdline
    assert there.cmdline == there.cmdline.strip()
    assert here.cmdline.endswith(" tsc=reliable no_timer_check")
    with pytest.raises(ConfigurationError, match="no recipe is named 'tinyy'"):
        read_recipe("tinyy")
