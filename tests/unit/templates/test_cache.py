"""Templates are built once, and held while guests use them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from fake_templates import PREPARED, FakeSnapshotter, fill, named, quiet

from pytest_xhyve.host.home import Home
from pytest_xhyve.model.errors import TemplateError, XhyveError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk, DiskSizes, Machine
from pytest_xhyve.templates.cache import TemplateCache
from pytest_xhyve.templates.identity import AgentState, IdentityError


class TestLibrary:
    @pytest.fixture
    def home(self, tmp_path: Path) -> Home:
        return Home(tmp_path / "home")

    def test_it_is_made_once_and_held(self, home: Home, image: Image, machine: Machine) -> None:
        made: list[Machine] = []

        def make(workspace: Path, template: Machine) -> tuple[tuple[Disk, ...], AgentState]:
            made.append(template)
            return fill(workspace), PREPARED

        said: list[str] = []
        # The limit is below what one takes.
        cache = TemplateCache(home, 1, said.append)
        with cache.using(image, machine, DiskSizes(), FakeSnapshotter(), make) as first:
            other = named(image, "g-2", UUID(int=2), "52:54:00:00:00:08")
            with cache.using(image, other, DiskSizes(), FakeSnapshotter(), make) as second:
                assert first == second
        assert [template.name for template in made] == ["template"]
        assert len(said) == 2

    def test_threads_that_want_it_at_once_have_it_made_once(self, home: Home, image: Image, machine: Machine) -> None:
        made: list[Machine] = []
        got: list[Path] = []

        def make(workspace: Path, template: Machine) -> tuple[tuple[Disk, ...], AgentState]:
            made.append(template)
            time.sleep(0.3)
            return fill(workspace), PREPARED

        cache = TemplateCache(home, 1 << 30, quiet)

        def want() -> None:
            with cache.using(image, machine, DiskSizes(), FakeSnapshotter(), make) as template:
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

        def make(workspace: Path, template: Machine) -> tuple[tuple[Disk, ...], AgentState]:
            tries.append(workspace)
            raise error

        cache = TemplateCache(home, 1 << 30, quiet)
        for _ in range(3):
            with (
                pytest.raises(TemplateError, match=r"cannot build a template of ubuntu18: .*no"),
                cache.using(image, machine, DiskSizes(), FakeSnapshotter(), make),
            ):
                pass
        assert len(tries) == 1
        assert not tries[0].exists()

    def test_those_who_waited_for_a_failure_do_not_try_it_themselves(
        self, home: Home, image: Image, machine: Machine
    ) -> None:
        tries: list[Path] = []
        failures: list[str] = []

        def make(workspace: Path, template: Machine) -> tuple[tuple[Disk, ...], AgentState]:
            tries.append(workspace)
            time.sleep(0.3)
            raise XhyveError("no")

        cache = TemplateCache(home, 1 << 30, quiet)

        def want() -> None:
            try:
                with cache.using(image, machine, DiskSizes(), FakeSnapshotter(), make):
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

    def test_a_damaged_one_is_built_again_with_a_message(self, home: Home, image: Image, machine: Machine) -> None:
        said: list[str] = []
        cache = TemplateCache(home, 1 << 30, said.append)

        def make(workspace: Path, template: Machine) -> tuple[tuple[Disk, ...], AgentState]:
            return fill(workspace), PREPARED

        with cache.using(image, machine, DiskSizes(), FakeSnapshotter(), make) as first:
            pass
        (first.folder / "state").write_bytes(b"?")
        said.clear()
        with cache.using(image, machine, DiskSizes(), FakeSnapshotter(), make) as second:
            assert second.folder != first.folder
        assert "state is not as it was saved" in said[0]
        assert "\n" not in said[0]

    def test_one_of_another_cpu_is_refused_with_the_reason(self, home: Home, image: Image, machine: Machine) -> None:
        def make(workspace: Path, template: Machine) -> tuple[tuple[Disk, ...], AgentState]:
            return fill(workspace), PREPARED

        said: list[str] = []
        cache = TemplateCache(home, 1 << 30, said.append)
        ice_lake = FakeSnapshotter(**{"CPU": "Xeon (Ice Lake)", "features of the CPU": "avx512_vnni"})
        cascade_lake = FakeSnapshotter(**{"CPU": "Xeon (Cascade Lake)", "features of the CPU": "avx512f"})
        with cache.using(image, machine, DiskSizes(), ice_lake, make) as theirs:
            pass
        said.clear()
        with cache.using(image, machine, DiskSizes(), cascade_lake, make) as ours:
            assert ours.folder != theirs.folder
        reason = "saved with Xeon (Ice Lake), and this host has Xeon (Cascade Lake)"
        assert said[1] == f"  not used: the template of ubuntu18 in {theirs.folder}, {reason}"
        # Another machine has nothing to do with it.
        said.clear()
        with cache.using(image, replace(machine, cpus=2), DiskSizes(), cascade_lake, make):
            assert "not used" not in "".join(said)

    def test_a_machine_whose_template_needs_too_much_space_is_an_error(
        self, home: Home, image: Image, machine: Machine
    ) -> None:
        def make(workspace: Path, template: Machine) -> tuple[tuple[Disk, ...], AgentState]:
            raise AssertionError

        cache = TemplateCache(home, 1 << 30, quiet)
        huge = replace(machine, memory=shutil.disk_usage(home.path).free)
        with (
            pytest.raises(TemplateError, match="MiB are free"),
            cache.using(image, huge, DiskSizes(), FakeSnapshotter(), make),
        ):
            pass

    def test_a_folder_that_cannot_be_used_is_an_error(self, home: Home, image: Image, machine: Machine) -> None:
        def make(workspace: Path, template: Machine) -> tuple[tuple[Disk, ...], AgentState]:
            raise AssertionError

        cache = TemplateCache(home, 1 << 30, quiet)
        shutil.rmtree(home.path / "templates")
        with (
            pytest.raises(TemplateError, match="cannot use"),
            cache.using(image, machine, DiskSizes(), FakeSnapshotter(), make),
        ):
            pass


def _want(home: Home, image: Image, machine: Machine, notes: Path) -> None:
    def make(workspace: Path, template: Machine) -> tuple[tuple[Disk, ...], AgentState]:
        (notes / f"made-{os.getpid()}").touch()
        time.sleep(2)
        return fill(workspace), PREPARED

    with TemplateCache(home, 1 << 30, quiet).using(image, machine, DiskSizes(), FakeSnapshotter(), make) as template:
        (notes / f"got-{os.getpid()}").write_text(str(template.folder))
