"""What is kept of templates: folders and locks."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_templates import FILES, PREPARED, fill, quiet
from waiting import becomes

from pytest_xhyve.host import locks
from pytest_xhyve.model.machine import Disk
from pytest_xhyve.templates.store import ABOUT, Template, TemplateDamaged, TemplateStore

KEY = "0123456789abcdef"
HOUR = 3600.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "templates").mkdir()
    (tmp_path / "checked").mkdir()
    return tmp_path / "templates"


@pytest.fixture
def store(folder: Path) -> TemplateStore:
    return TemplateStore(folder, folder.parent / "checked")


def publish(store: TemplateStore, key: str = KEY, size: int = 1 << 16) -> Template:
    with store.building(key, quiet), store.workspace(key) as workspace:
        store.publish(workspace, key, "tiny", fill(workspace, size), PREPARED)
    with store.using(key) as template:
        assert template is not None
        return template


def find(store: TemplateStore, key: str = KEY) -> Template | None:
    with store.using(key) as template:
        return template


def age(path: Path, seconds: float) -> None:
    when = time.time() - seconds
    os.utime(path, (when, when))


def _time_of_a_new_file(folder: Path) -> int:
    """What time it is for the file system, whose clock is coarse."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_ctime_ns


class TestStore:
    def test_a_published_template_is_found_again(self, store: TemplateStore, folder: Path) -> None:
        assert find(store) is None
        published = publish(store)
        again = find(TemplateStore(folder, folder.parent / "checked"))
        assert again == published
        assert (published.key, published.image, published.agent) == (KEY, "tiny", PREPARED)
        assert published.disks[0] == Disk(published.folder / "disk.qcow2", "qcow2")
        assert published.size >= 4 << 16
        assert find(store, "fedcba9876543210") is None

    def test_template_of_an_earlier_version_is_listed_and_removed(self, store: TemplateStore) -> None:
        path = publish(store).folder / ABOUT
        about = json.loads(path.read_text())
        about["disk"] = about.pop("disks")[0]
        path.write_text(json.dumps(about))
        (template,) = store.all()
        assert [disk.path.name for disk in template.disks] == ["disk.qcow2"]
        assert store.prune() == [template]
        assert store.all() == []

    def test_nothing_is_found_before_it_is_published(self, store: TemplateStore) -> None:
        with store.building(KEY, quiet), store.workspace(KEY) as workspace:
            fill(workspace)
            assert find(store) is None
            assert store.all() == []
        assert not workspace.exists()

    @pytest.mark.parametrize("name", [*FILES, ABOUT])
    @pytest.mark.parametrize("damage", ["altered", "truncated", "deleted"])
    def test_a_damaged_template_is_set_aside(self, store: TemplateStore, name: str, damage: str) -> None:
        path = publish(store).folder / name
        content = path.read_bytes()
        if damage == "altered":
            # In the middle, and with its old time.
            stat = path.stat()
            assert becomes(lambda: _time_of_a_new_file(path.parents[1]) > stat.st_ctime_ns)
            middle = len(content) // 2
            # The content is random, and so it may have any byte there.
            path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        elif damage == "truncated":
            path.write_bytes(content[:-1])
        else:
            path.unlink()
        if (name, damage) == (ABOUT, "deleted"):
            assert find(store) is None
        else:
            with pytest.raises(TemplateDamaged, match=name):
                find(store)
        assert find(store) is None
        assert find(store, KEY) is None
        assert store.all() == []
        assert publish(store).folder != path.parent

    @pytest.mark.parametrize("content", ["", "[]", "null", "{}", '{"itself": 1}', "\0\0\0"])
    def test_a_description_that_is_none_is_damage(self, store: TemplateStore, content: str) -> None:
        (publish(store).folder / ABOUT).write_text(content)
        with pytest.raises(TemplateDamaged):
            find(store)

    def test_a_description_that_was_edited_is_damage(self, store: TemplateStore) -> None:
        about = publish(store).folder / ABOUT
        content = json.loads(about.read_text())
        content["agent"]["random"] = 7
        about.write_text(json.dumps(content))
        with pytest.raises(TemplateDamaged, match="not as it was written"):
            find(store)

    def test_those_unused_for_longest_are_pruned_first(self, store: TemplateStore) -> None:
        keys = [f"{number:016x}" for number in range(4)]
        templates = {key: publish(store, key) for key in keys}
        for place, key in enumerate([keys[2], keys[0], keys[3], keys[1]]):
            age(templates[key].folder / ABOUT, 1000 - place)
        size = templates[keys[0]].size
        assert [template.key for template in store.prune(keep=3 * size)] == [keys[2]]
        find(store, keys[0])
        assert [template.key for template in store.prune(keep=size)] == [keys[3], keys[1]]
        assert [template.key for template in store.all()] == [keys[0]]
        assert [template.key for template in store.prune()] == [keys[0]]
        assert store.all() == []

    def test_what_fits_is_kept(self, store: TemplateStore) -> None:
        template = publish(store)
        assert store.prune(keep=template.size) == []
        assert find(store) is not None

    def test_a_held_template_is_not_pruned(self, store: TemplateStore, folder: Path) -> None:
        publish(store)
        with store.using(KEY) as template, store.using(KEY):
            assert template is not None
            assert TemplateStore(folder, folder.parent / "checked").prune() == []
            assert (template.folder / "ram").exists()
        assert len(store.prune()) == 1

    def test_the_place_of_a_template_in_use_is_never_another_ones(self, store: TemplateStore) -> None:
        # A guest's disk names that of its template by its path, and is opened again at its next start.
        with ExitStack() as guests:
            publish(store)
            first = guests.enter_context(store.using(KEY))
            assert first is not None
            content = first.disks[0].path.read_bytes()
            store.quarantine(first, "a guest could not be restored")
            second = publish(store)
            store.prune(keep=second.size)
            assert first.disks[0].path.read_bytes() == content
            assert second.disks[0].path != first.disks[0].path
        store.prune(keep=second.size)
        assert not first.folder.exists()
        assert find(store) == second

    def test_setting_aside_one_that_is_gone_does_not_harm_the_next(self, store: TemplateStore) -> None:
        first = publish(store)
        store.quarantine(first, "why")
        second = publish(store)
        # As a second guest does that was being restored at the same time.
        store.quarantine(first, "why")
        assert find(store) == second
        assert store.find_failure(KEY) is None

    def test_what_a_killed_maker_left_is_never_used_and_goes(self, store: TemplateStore, folder: Path) -> None:
        left = folder / f".{KEY}.abcdefgh"
        left.mkdir()
        fill(left)
        (left / ABOUT).write_text("{}")
        assert find(store) is None
        assert store.all() == []
        with store.building(KEY, quiet):
            assert not left.exists()

    def test_pruning_removes_what_makers_of_other_keys_left(self, store: TemplateStore, folder: Path) -> None:
        left = folder / ".fedcba9876543210.abcdefgh"
        left.mkdir()
        fill(left)
        with store.building(KEY, quiet), store.workspace(KEY) as workspace:
            store.prune(keep=1 << 40)
            assert not left.exists()
            assert workspace.exists()

    def test_a_killed_pruning_is_ended_by_the_next(self, store: TemplateStore) -> None:
        template = publish(store)
        template.folder.rename(template.folder.with_name(f".{template.folder.name}"))
        assert find(store) is None
        publish(store)
        assert len(store.prune()) == 1

    def test_a_refusal_lasts_an_hour(self, store: TemplateStore, folder: Path) -> None:
        assert store.find_failure(KEY) is None
        store.record_failure(KEY, "it has no second serial port")
        assert store.find_failure(KEY) == "it has no second serial port"
        assert store.find_failure("fedcba9876543210") is None
        age(folder / f"{KEY}.refused", HOUR - 60)
        assert store.find_failure(KEY) == "it has no second serial port"
        age(folder / f"{KEY}.refused", HOUR + 1)
        assert store.find_failure(KEY) is None

    def test_after_a_second_failure_within_an_hour_no_more_are_made(self, store: TemplateStore, folder: Path) -> None:
        store.quarantine(publish(store), "first")
        assert store.find_failure(KEY) is None
        age(folder / f"{KEY}.failed", HOUR + 1)
        store.quarantine(publish(store), "second")
        assert store.find_failure(KEY) is None
        store.quarantine(publish(store), "third")
        assert store.find_failure(KEY) == "third"

    def test_one_waits_while_another_makes(
        self, store: TemplateStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert locks.QUIET_SECONDS <= 2
        monkeypatch.setattr(locks, "QUIET_SECONDS", 0.2)
        said: list[str] = []
        entered = threading.Event()

        def wait_for_it() -> None:
            with TemplateStore(folder, folder.parent / "checked").building(KEY, said.append):
                entered.set()

        waiting = threading.Thread(target=wait_for_it)
        with store.building(KEY, quiet):
            waiting.start()
            assert becomes(lambda: bool(said))
            assert not entered.is_set()
        waiting.join(10)
        assert entered.is_set()
        assert [line.partition(",")[0] for line in said] == ["waiting for another process"]
