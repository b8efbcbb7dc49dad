"""`pytest-xhyve prune`: what goes, and what has to stay."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import run_separately
from fake_cache import (
    CURRENT,
    EARLIER,
    LONG_AGO,
    living_run,
    store_of,
    write_build,
    write_layer,
    write_prepared,
    write_template,
)
from fake_images import qcow2
from filelock import FileLock

from pytest_xhyve.cli.prune import Pruned, remove
from pytest_xhyve.cli.prune_candidates import find_candidates
from pytest_xhyve.host.digests import known_digest, remember_digest
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.model.values import format_size


def test_prepared_disk_goes_with_the_images(new_home: Home) -> None:
    prepared = write_prepared(new_home)
    killed = new_home.folder("prepared") / ".0123456789abcdef.x1"
    killed.mkdir()
    broken = write_prepared(new_home, "fedcba9876543210")
    (broken / "manifest.img").unlink()
    left = {(each.kind, each.path) for each in find_candidates(new_home)}
    assert left == {("leftover", killed), ("leftover", broken)}
    candidates = find_candidates(new_home, images=True)
    assert ("prepared disk", prepared) in {(each.kind, each.path) for each in candidates}
    with living_run(new_home):
        assert prepared in {each.path for each, _ in remove(candidates, new_home).kept}
    remove(find_candidates(new_home, images=True), new_home)
    assert [path for path in new_home.folder("prepared").iterdir() if path.is_dir()] == []


def prune(*arguments: str) -> dict[str, Any]:
    """What is removed and kept, as pairs of kind and name."""
    done = run_separately("prune", "--json", *arguments)
    assert done.exit_code == 0, done.output
    content: dict[str, Any] = json.loads(done.stdout)
    assert content["freed"] == sum(piece["bytes"] for piece in content["removed"])
    return {which: {(piece["kind"], piece["name"]): piece for piece in content[which]} for which in ("removed", "kept")}


@pytest.mark.parametrize("arguments", [["images"], ["prune"], ["prune", "--dry-run"]])
def test_folder_that_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "file"))
    done = run_separately(*arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: cannot use the cache folder {tmp_path / 'file'}: Not a directory")
    assert HOME_VARIABLE in done.stderr


def test_folder_that_may_not_be_written(new_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    template = write_template(new_home)
    # root may write everywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    done = run_separately("prune")
    assert done.exit_code == 1
    assert f"cannot remove anything in {new_home.path}" in done.stderr
    assert template.folder.exists()


@pytest.mark.parametrize(
    "arguments", [["--yes"], ["--images", "--json"], ["--older-than=-1"], ["--older-than=soon"], ["more"]]
)
def test_wrong_usage(new_home: Home, arguments: list[str]) -> None:
    assert run_separately("prune", *arguments).exit_code == 2


def test_nothing_to_prune(new_home: Home) -> None:
    done = run_separately("prune")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "nothing to remove\n")
    assert not new_home.path.exists()


def test_prune_says_what_went_and_how_much(new_home: Home) -> None:
    template = write_template(new_home)
    shown = f"template tiny ({template.key}): {format_size(template.size)}\n"
    total = format_size(template.size)
    assert run_separately("prune", "--dry-run").stdout == f"would remove {shown}would free {total}\n"
    assert template.folder.exists()
    assert run_separately("prune").stdout.startswith(f"removed {shown}")
    assert not template.folder.exists()
    # What it was known by goes the next time.
    assert run_separately("prune").stdout.startswith("removed digests 1 of deleted files")
    assert run_separately("prune").stderr == "nothing to remove\n"


def test_template_in_use_stays(new_home: Home) -> None:
    template = write_template(new_home)
    with store_of(new_home).using(template.key):
        for arguments in (["--dry-run"], []):
            done = prune(*arguments)
            assert done["removed"] == {}
            [kept] = done["kept"].values()
            assert kept["reason"] == "a guest uses it, or it is being made"
    assert template.folder.exists()
    assert [*prune()["removed"]] == [("template", f"tiny ({template.key})")]


def test_template_that_was_set_aside_or_damaged(new_home: Home) -> None:
    aside, damaged = write_template(new_home), write_template(new_home, "f1561e982920791b")
    store_of(new_home).quarantine(aside, "it does not work")
    (damaged.folder / "template.json").write_text("{")
    assert {kind for kind, _ in prune("--dry-run")["removed"]} == {"leftover"}
    prune()
    assert not aside.folder.exists()
    assert not damaged.folder.exists()


def test_template_that_is_being_made_stays(new_home: Home) -> None:
    store = store_of(new_home)
    with store.building("abc", print), store.workspace("abc") as workspace:
        assert [*prune()["kept"]] == [("leftover", workspace.name)]
        assert workspace.exists()
    left = new_home.folder("templates") / ".abc.killed"
    left.mkdir()
    assert [*prune()["removed"]] == [("leftover", ".abc.killed")]
    assert not left.exists()


def test_only_what_was_not_used_for_long(new_home: Home) -> None:
    old, new = write_template(new_home), write_template(new_home, "f1561e982920791b", used=time.time() - 86400)
    assert [*prune("--older-than=7")["removed"]] == [("template", f"tiny ({old.key})")]
    assert new.folder.exists()
    assert [*prune("--older-than=0.5")["removed"]] == [("template", f"tiny ({new.key})")]


def test_earlier_build(new_home: Home) -> None:
    current, earlier = write_build(new_home)
    others = [new_home.folder("images") / name for name in ("mine", "mine-1", "own.img")]
    for path in others:
        path.mkdir()
    assert [*prune()["removed"]] == [("earlier build", EARLIER)]
    assert (current.exists(), earlier.exists()) == (True, False)
    assert all(path.exists() for path in others)


def test_earlier_build_that_a_guest_reads_from_stays(new_home: Home) -> None:
    _, earlier = write_build(new_home)
    with living_run(new_home, earlier / "disk.img"):
        assert prune()["kept"]["earlier build", EARLIER]["reason"] == "a guest uses it"
    assert earlier.exists()


def test_earlier_build_that_a_run_may_have_found_stays(new_home: Home) -> None:
    _, earlier = write_build(new_home, replaced=time.time() + 60)
    with living_run(new_home):
        assert "an active run may need it" in prune()["kept"]["earlier build", EARLIER]["reason"]
    assert earlier.exists()


def test_earlier_build_goes_beside_a_run_that_began_after_it(new_home: Home) -> None:
    write_build(new_home)
    with living_run(new_home):
        assert [*prune()["removed"]] == [("earlier build", EARLIER)]


def test_build_that_was_killed(new_home: Home) -> None:
    images = new_home.folder("images")
    left = images / ".tiny-partitioned.abc_1"
    left.mkdir()
    with FileLock(images / "tiny-partitioned.lock"):
        assert prune()["kept"]["leftover", left.name]["reason"] == "it is being built"
    assert left.exists()
    prune()
    assert not left.exists()


def test_images_go_when_they_are_asked_for(new_home: Home) -> None:
    current, earlier = write_build(new_home)
    done = run_separately("prune", "--images", typed="n\n")
    assert done.exit_code == 1
    assert "Remove tiny, too?" in done.stderr
    assert current.exists()
    assert earlier.exists()
    assert ("image", "tiny") in prune("--images", "--dry-run")["removed"]
    assert ("image", "tiny") in prune("--images", "--yes")["removed"]
    assert not current.exists()
    assert [path.name for path in new_home.folder("images").iterdir() if path.suffix != ".lock"] == []


def test_image_without_its_disk_goes_too(new_home: Home) -> None:
    current, _ = write_build(new_home)
    (current / "disk.img").unlink()
    assert ("image", "tiny") in prune("--images", "--yes")["removed"]
    assert not current.exists()


@pytest.mark.parametrize("reads", [True, False])
def test_images_stay_while_a_run_lives(new_home: Home, reads: bool) -> None:
    current, _ = write_build(new_home)
    with living_run(new_home, current / "disk.img" if reads else None):
        assert ("image", "tiny") in prune("--images", "--yes")["kept"]
    assert (new_home.path / "images" / "tiny.yaml").exists()
    assert current.exists()


def test_images_of_another_folder_stay(new_home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    current, earlier = write_build(other)
    new_home.path.mkdir()
    (new_home.path / "images").symlink_to(other.path / "images")
    assert prune("--images", "--yes")["removed"] == {}
    assert current.exists()
    assert earlier.exists()


def test_digests_of_files_that_are_gone(new_home: Home, tmp_path: Path) -> None:
    checked = new_home.folder("checked")
    there, gone = tmp_path / "there", tmp_path / "gone"
    for path in (there, gone):
        path.write_text("content")
        known_digest(path, checked)
    gone.unlink()
    (checked / "0123456789abcdef.json").write_text("{}")
    for name, written in (("killed", LONG_AGO), ("writing", time.time())):
        (checked / f"{name}.new").touch()
        os.utime(checked / f"{name}.new", (written, written))
    assert [*prune()["removed"]] == [("digests", "2 of deleted files")]
    assert [path.name for path in checked.glob("*.new")] == ["writing.new"]
    assert len(list(checked.glob("*.json"))) == 1
    remember_digest(there, "so it is", checked)
    assert known_digest(there, checked) == "so it is"


def test_two_at_once_are_no_error(new_home: Home) -> None:
    write_template(new_home)
    write_build(new_home)
    first, second = (find_candidates(new_home, images=True) for _ in range(2))
    assert len(remove(first, new_home).removed) == 3
    assert remove(second, new_home) == Pruned((), ())


def test_nobody_is_kept_waiting_by_the_question(new_home: Home) -> None:
    """Asking whether a template is in use leaves no lock behind."""
    template = write_template(new_home)
    assert not store_of(new_home).is_in_use(template.folder)
    fd = os.open(new_home.folder("templates") / f"{template.key}.used", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(fd)


def test_layers_are_listed_as_a_tree_and_go_with_the_images(new_home: Home) -> None:
    current, earlier = write_build(new_home)
    first = write_layer(new_home, "1" * 16, current / "disk.img", "db")
    second = write_layer(new_home, "2" * 16, first / "layer.qcow2", "web")
    (new_home.folder("saved") / "mine").write_text("2" * 16)
    listed = run_separately("images").stdout.splitlines()
    at = next(number for number, line in enumerate(listed) if line.startswith("tiny "))
    assert listed[at + 1].split()[:2] == ["db", "layer"]
    assert (listed[at + 1].startswith("  db"), listed[at + 2].startswith("    mine")) == (True, True)
    data = json.loads(run_separately("images", "--json").stdout)["layers"]
    assert [(each["name"], each["extends"]) for each in data] == [("db", CURRENT), ("mine", "1" * 16)]
    # Without --images, layers stay, and so does what is below them.
    assert {kind for kind, _ in prune()["removed"]} == {"earlier build"}
    assert not earlier.exists()
    with living_run(new_home, second / "layer.qcow2"):
        kept = prune("--images", "--yes")["kept"]
        assert {key[0] for key in kept} == {"layer", "saved image", "image"}
    would = prune("--images", "--dry-run")
    assert [key[0] for key in would["removed"]] == ["saved image", "layer", "image"]
    assert "Lost then: the guests that were saved as mine" in run_separately("prune", "--images", typed="n\n").stderr
    assert [key[0] for key in prune("--images", "--yes")["removed"]][:3] == ["saved image", "layer", "image"]
    assert not (new_home.path / "saved" / "mine").exists()
    assert [path for path in (first, second, current) if path.exists()] == []


def test_earlier_build_stays_below_a_layer(new_home: Home) -> None:
    _, earlier = write_build(new_home)
    write_layer(new_home, "1" * 16, earlier / "disk.img", "db")
    ((_, kept),) = prune()["kept"].items()
    assert kept["reason"] == f"it is below {'1' * 16}"


def test_installed_systems_go_with_the_images(new_home: Home) -> None:
    folder = new_home.folder("installed")
    system = folder / "my.debian"
    system.mkdir()
    disk = qcow2(system / "disk0.qcow2", size=1 << 20)
    (system / "manifest.yaml").write_text(f"name: my.debian\ndisk: {disk.name}\n")
    killed = folder / ".my.debian.abc123"
    killed.mkdir()
    with FileLock(folder / "my.debian.lock"):
        assert prune()["kept"][("leftover", killed.name)]["reason"] == "it is being built"
    assert list(prune()["removed"]) == [("leftover", killed.name)]
    with living_run(new_home, disk):
        kept = prune("--images", "--yes")["kept"]
    assert kept["installed system", "my.debian"]["reason"] == "a guest uses it"
    layer = write_layer(new_home, "1" * 16, disk, "db")
    assert "the installed systems my.debian" in run_separately("prune", "--images", typed="n\n").stderr
    assert [key[0] for key in prune("--images", "--yes")["removed"]] == ["layer", "installed system"]
    assert not system.exists()
    assert not layer.exists()
