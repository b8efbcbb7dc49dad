"""What is kept of templates, without a guest: folders, locks, keys."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from fake_images import write_image
from waiting import becomes

from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.base import SnapshotMachine
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.model.errors import TemplateError, XhyveError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk, Machine, Nic
from pytest_xhyve.templates.cache import TemplateCache
from pytest_xhyve.templates.identity import AgentState, IdentityError
from pytest_xhyve.templates.key import as_template, identity_words, template_key
from pytest_xhyve.templates.store import ABOUT, Template, TemplateDamaged, TemplateStore

KEY = "0123456789abcdef"
HOUR = 3600.0
PREPARED = AgentState(random=3, socket=4, interface="eth0", machine_id=-1)
FILES = ["disk.qcow2", "ram", "state", "identity.json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "templates").mkdir()
    (tmp_path / "checked").mkdir()
    return tmp_path / "templates"


@pytest.fixture
def store(folder: Path) -> TemplateStore:
    return TemplateStore(folder, folder.parent / "checked")


def quiet(line: str) -> None:
    """Nobody listens."""


def fill(workspace: Path, size: int = 1 << 16) -> Disk:
    for name in FILES:
        (workspace / name).write_bytes(os.urandom(size))
    return Disk(workspace / "disk.qcow2", "qcow2")


def publish(store: TemplateStore, key: str = KEY, size: int = 1 << 16) -> Template:
    with store.making(key, quiet), store.workspace(key) as workspace:
        store.publish(workspace, key, "tiny", fill(workspace, size), PREPARED)
    with store.holding(key) as template:
        assert template is not None
        return template


def find(store: TemplateStore, key: str = KEY) -> Template | None:
    with store.holding(key) as template:
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
        assert published.disk == Disk(published.folder / "disk.qcow2", "qcow2")
        assert published.size >= 4 << 16
        assert find(store, "fedcba9876543210") is None

    def test_nothing_is_found_before_it_is_published(self, store: TemplateStore) -> None:
        with store.making(KEY, quiet), store.workspace(KEY) as workspace:
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
            path.write_bytes(content[: len(content) // 2] + b"?" + content[len(content) // 2 + 1 :])
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
        with store.holding(KEY) as template, store.holding(KEY):
            assert template is not None
            assert TemplateStore(folder, folder.parent / "checked").prune() == []
            assert (template.folder / "ram").exists()
        assert len(store.prune()) == 1

    def test_the_place_of_a_template_in_use_is_never_another_ones(self, store: TemplateStore) -> None:
        # A guest's disk names that of its template by its path, and is opened again at its next start.
        with ExitStack() as guests:
            publish(store)
            first = guests.enter_context(store.holding(KEY))
            assert first is not None
            content = first.disk.path.read_bytes()
            store.quarantine(first, "a guest could not be restored")
            second = publish(store)
            store.prune(keep=second.size)
            assert first.disk.path.read_bytes() == content
            assert second.disk.path != first.disk.path
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
        assert store.refusal(KEY) is None

    def test_what_a_killed_maker_left_is_never_used_and_goes(self, store: TemplateStore, folder: Path) -> None:
        left = folder / f".{KEY}.abcdefgh"
        left.mkdir()
        fill(left)
        (left / ABOUT).write_text("{}")
        assert find(store) is None
        assert store.all() == []
        with store.making(KEY, quiet):
            assert not left.exists()

    def test_pruning_removes_what_makers_of_other_keys_left(self, store: TemplateStore, folder: Path) -> None:
        left = folder / ".fedcba9876543210.abcdefgh"
        left.mkdir()
        fill(left)
        with store.making(KEY, quiet), store.workspace(KEY) as workspace:
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
        assert store.refusal(KEY) is None
        store.record_failure(KEY, "it has no second serial port")
        assert store.refusal(KEY) == "it has no second serial port"
        assert store.refusal("fedcba9876543210") is None
        age(folder / f"{KEY}.refused", HOUR - 60)
        assert store.refusal(KEY) == "it has no second serial port"
        age(folder / f"{KEY}.refused", HOUR + 1)
        assert store.refusal(KEY) is None

    def test_after_a_second_failure_within_an_hour_no_more_are_made(self, store: TemplateStore, folder: Path) -> None:
        store.quarantine(publish(store), "first")
        assert store.refusal(KEY) is None
        age(folder / f"{KEY}.failed", HOUR + 1)
        store.quarantine(publish(store), "second")
        assert store.refusal(KEY) is None
        store.quarantine(publish(store), "third")
        assert store.refusal(KEY) == "third"

    def test_one_waits_while_another_makes(self, store: TemplateStore, folder: Path) -> None:
        said: list[str] = []
        entered = threading.Event()

        def wait_for_it() -> None:
            with TemplateStore(folder, folder.parent / "checked").making(KEY, said.append):
                entered.set()

        waiting = threading.Thread(target=wait_for_it)
        with store.making(KEY, quiet):
            waiting.start()
            assert not entered.wait(1.5)
        waiting.join(10)
        assert entered.is_set()
        assert said == ["waiting for another process, which makes the template"]


class FakeSnapshotter:
    """Says what its machines depend on, and saves none."""

    def __init__(self, **depends: str) -> None:
        self._depends = depends

    def depends_on(self, machine: Machine) -> dict[str, str]:
        return {"hypervisor": "qemu 7.2.0", "computer": f"-smp {machine.cpus}", **self._depends}

    def start_recorded(self, *_: Any) -> AbstractContextManager[SnapshotMachine]:
        raise NotImplementedError

    def start_restored(self, *_: Any) -> AbstractContextManager[SnapshotMachine]:
        raise NotImplementedError


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return read_manifest(write_image(tmp_path))


@pytest.fixture
def machine(image: Image) -> Machine:
    return named(image, "g-1", UUID(int=1), "52:54:00:00:00:07")


def named(image: Image, name: str, uuid: UUID, mac: str) -> Machine:
    return Machine(
        name=name,
        uuid=uuid,
        cpus=1,
        cpu="x86-64-v2",
        memory=64 << 20,
        disks=(),
        nics=(Nic(mac),),
        kernel=image.kernel,
        initrd=image.initrd,
        cmdline=" ".join([image.cmdline, *identity_words(name, uuid)]),
    )


class TestKey:
    @pytest.fixture
    def checked(self, tmp_path: Path) -> Path:
        (tmp_path / "checked").mkdir()
        return tmp_path / "checked"

    def test_an_identity_of_its_own_makes_no_difference(self, image: Image, machine: Machine, checked: Path) -> None:
        key = template_key(image, machine, FakeSnapshotter(), checked)
        for name, uuid, mac in [("g-2", UUID(int=1), "52:54:00:00:00:07"), ("other", uuid4(), "52:54:00:00:00:08")]:
            assert template_key(image, named(image, name, uuid, mac), FakeSnapshotter(), checked) == key
        # Nor does what is told of the disk's place.
        assert template_key(image, replace(machine, disks=(Disk(Path("/x")),)), FakeSnapshotter(), checked) == key

    @pytest.mark.parametrize(
        "change",
        [
            {"cpus": 2},
            {"cpu": "x86-64-v3"},
            {"memory": 128 << 20},
            {"cmdline": "root=/dev/vda quiet"},
            {"nics": (Nic("52:54:00:00:00:07"), Nic("52:54:00:00:00:08"))},
            {"initrd": None},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_a_changed_machine_has_another(
        self, image: Image, machine: Machine, checked: Path, change: dict[str, Any]
    ) -> None:
        before = template_key(image, machine, FakeSnapshotter(), checked)
        assert template_key(image, replace(machine, **change), FakeSnapshotter(), checked) != before

    @pytest.mark.parametrize("name", ["disk", "kernel", "initrd"])
    def test_a_changed_file_has_another(self, image: Image, machine: Machine, checked: Path, name: str) -> None:
        before = template_key(image, machine, FakeSnapshotter(), checked)
        path: Path = getattr(image, name)
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"?")
        assert template_key(image, machine, FakeSnapshotter(), checked) != before
        path.write_bytes(content)
        assert template_key(image, machine, FakeSnapshotter(), checked) == before

    @pytest.mark.parametrize(
        "change", [{"user": "debian"}, {"host_keys": ("ssh-ed25519 AAAA",)}, {"format": "qcow2"}], ids=str
    )
    def test_a_changed_image_has_another(
        self, image: Image, machine: Machine, checked: Path, change: dict[str, Any]
    ) -> None:
        before = template_key(image, machine, FakeSnapshotter(), checked)
        assert template_key(replace(image, **change), machine, FakeSnapshotter(), checked) != before

    @pytest.mark.parametrize("what", ["hypervisor", "computer", "host"])
    def test_another_hypervisor_or_host_has_another(
        self, image: Image, machine: Machine, checked: Path, what: str
    ) -> None:
        before = template_key(image, machine, FakeSnapshotter(), checked)
        assert template_key(image, machine, FakeSnapshotter(**{what: "another"}), checked) != before

    def test_a_template_has_nothing_of_the_machine_it_is_made_for(self, image: Image) -> None:
        uuid = uuid4()
        one = as_template(named(image, "g-1", UUID(int=1), "52:54:00:00:00:07"), uuid)
        other = as_template(named(image, "g-2", UUID(int=2), "52:54:00:00:00:08"), uuid)
        assert one == other
        assert "g-1" not in one.cmdline.split("=")
        assert one.cmdline.startswith(image.cmdline)


class TestLibrary:
    @pytest.fixture
    def home(self, tmp_path: Path) -> Home:
        return Home(tmp_path / "home")

    def test_it_is_made_once_and_held(self, home: Home, image: Image, machine: Machine) -> None:
        made: list[Machine] = []

        def make(workspace: Path, template: Machine) -> tuple[Disk, AgentState]:
            made.append(template)
            return fill(workspace), PREPARED

        said: list[str] = []
        # The limit is below what one takes.
        cache = TemplateCache(home, 1, said.append)
        with cache.using(image, machine, FakeSnapshotter(), make) as first:
            other = named(image, "g-2", UUID(int=2), "52:54:00:00:00:08")
            with cache.using(image, other, FakeSnapshotter(), make) as second:
                assert first == second
        assert [template.name for template in made] == ["template"]
        assert len(said) == 2

    def test_threads_that_want_it_at_once_have_it_made_once(self, home: Home, image: Image, machine: Machine) -> None:
        made: list[Machine] = []
        got: list[Path] = []

        def make(workspace: Path, template: Machine) -> tuple[Disk, AgentState]:
            made.append(template)
            time.sleep(0.3)
            return fill(workspace), PREPARED

        cache = TemplateCache(home, 1 << 30, quiet)

        def want() -> None:
            with cache.using(image, machine, FakeSnapshotter(), make) as template:
                got.append(template.folder)

        threads = [threading.Thread(target=want) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(made) == 1
        assert len(got) == 6
        assert len(set(got)) == 1

    def test_processes_that_want_it_at_once_have_it_made_once(
        self, home: Home, image: Image, machine: Machine, tmp_path: Path
    ) -> None:
        context = multiprocessing.get_context("spawn")
        home.folder("templates")
        processes = [context.Process(target=_want, args=(home, image, machine, tmp_path)) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0, 0]
        assert len(list(tmp_path.glob("made-*"))) == 1
        assert len({path.read_text() for path in tmp_path.glob("got-*")}) == 1

    @pytest.mark.parametrize("error", [XhyveError("no"), IdentityError("no"), OSError(5, "no")])
    def test_what_cannot_be_made_is_not_tried_again(
        self, home: Home, image: Image, machine: Machine, error: Exception
    ) -> None:
        tries: list[Path] = []

        def make(workspace: Path, template: Machine) -> tuple[Disk, AgentState]:
            tries.append(workspace)
            raise error

        cache = TemplateCache(home, 1 << 30, quiet)
        for _ in range(3):
            with (
                pytest.raises(TemplateError, match=r"no template of ubuntu18 can be made: .*no"),
                cache.using(image, machine, FakeSnapshotter(), make),
            ):
                pass
        assert len(tries) == 1
        assert not tries[0].exists()

    def test_those_who_waited_for_a_failure_do_not_try_it_themselves(
        self, home: Home, image: Image, machine: Machine
    ) -> None:
        tries: list[Path] = []
        failures: list[str] = []

        def make(workspace: Path, template: Machine) -> tuple[Disk, AgentState]:
            tries.append(workspace)
            time.sleep(0.3)
            raise XhyveError("no")

        cache = TemplateCache(home, 1 << 30, quiet)

        def want() -> None:
            try:
                with cache.using(image, machine, FakeSnapshotter(), make):
                    pass
            except TemplateError as error:
                failures.append(str(error))

        threads = [threading.Thread(target=want) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(failures) == 4
        assert len(tries) == 1

    def test_a_damaged_one_is_made_anew_with_a_word(self, home: Home, image: Image, machine: Machine) -> None:
        said: list[str] = []
        cache = TemplateCache(home, 1 << 30, said.append)

        def make(workspace: Path, template: Machine) -> tuple[Disk, AgentState]:
            return fill(workspace), PREPARED

        with cache.using(image, machine, FakeSnapshotter(), make) as first:
            pass
        (first.folder / "state").write_bytes(b"?")
        said.clear()
        with cache.using(image, machine, FakeSnapshotter(), make) as second:
            assert second.folder != first.folder
        assert "state is not as it was saved" in said[0]
        assert "\n" not in said[0]

    def test_a_machine_of_which_no_template_has_room_is_told_up_front(
        self, home: Home, image: Image, machine: Machine
    ) -> None:
        def make(workspace: Path, template: Machine) -> tuple[Disk, AgentState]:
            raise AssertionError

        cache = TemplateCache(home, 1 << 30, quiet)
        huge = replace(machine, memory=shutil.disk_usage(home.path).free)
        with pytest.raises(TemplateError, match="MiB are free"), cache.using(image, huge, FakeSnapshotter(), make):
            pass

    def test_a_folder_that_cannot_be_used_is_told(self, home: Home, image: Image, machine: Machine) -> None:
        def make(workspace: Path, template: Machine) -> tuple[Disk, AgentState]:
            raise AssertionError

        cache = TemplateCache(home, 1 << 30, quiet)
        shutil.rmtree(home.path / "templates")
        with pytest.raises(TemplateError, match="cannot be used"), cache.using(image, machine, FakeSnapshotter(), make):
            pass


def _want(home: Home, image: Image, machine: Machine, notes: Path) -> None:
    def make(workspace: Path, template: Machine) -> tuple[Disk, AgentState]:
        (notes / f"made-{os.getpid()}").touch()
        time.sleep(2)
        return fill(workspace), PREPARED

    with TemplateCache(home, 1 << 30, quiet).using(image, machine, FakeSnapshotter(), make) as template:
        (notes / f"got-{os.getpid()}").write_text(str(template.folder))
