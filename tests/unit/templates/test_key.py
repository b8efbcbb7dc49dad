"""What a template's key depends on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from fake_templates import FakeSnapshotter, named

from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk, DiskSizes, Machine, Nic
from pytest_xhyve.templates.key import as_template, template_key


class TestKey:
    @pytest.fixture
    def checked(self, tmp_path: Path) -> Path:
        (tmp_path / "checked").mkdir()
        return tmp_path / "checked"

    def test_an_identity_of_its_own_makes_no_difference(self, image: Image, machine: Machine, checked: Path) -> None:
        key = template_key(image, machine, DiskSizes(), FakeSnapshotter(), checked)
        for name, uuid, mac in [("g-2", UUID(int=1), "52:54:00:00:00:07"), ("other", uuid4(), "52:54:00:00:00:08")]:
            assert template_key(image, named(image, name, uuid, mac), DiskSizes(), FakeSnapshotter(), checked) == key
        # Nor does what is told of the disk's place.
        assert (
            template_key(image, replace(machine, disks=(Disk(Path("/x")),)), DiskSizes(), FakeSnapshotter(), checked)
            == key
        )

    def test_a_moved_cache_makes_no_difference(self, image: Image, machine: Machine, tmp_path: Path) -> None:
        keys = set()
        for name in ("one", "other"):
            (tmp_path / name / "checked").mkdir(parents=True)
            (tmp_path / name / "images").mkdir()
            moved = replace(image, disk=Path(shutil.copy(image.disk, tmp_path / name / "images" / "disk.img")))
            key = template_key(moved, machine, DiskSizes(), FakeSnapshotter(), tmp_path / name / "checked")
            keys.add(str(key))
        assert len(keys) == 1

    @pytest.mark.parametrize(
        "change",
        [
            {"cpus": 2},
            {"cpu": "x86-64-v3"},
            {"memory": 128 << 20},
            {"cmdline": "root=/dev/vda quiet"},
            {"nics": (Nic("52:54:00:00:00:07"), Nic("52:54:00:00:00:08"))},
            {"nics": (Nic("52:54:00:00:00:07", network="isolated"),)},
            {"initrd": None},
            {"graphics": True},
            {"firmware": "bios"},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_a_changed_machine_has_another(
        self, image: Image, machine: Machine, checked: Path, change: dict[str, Any]
    ) -> None:
        before = template_key(image, machine, DiskSizes(), FakeSnapshotter(), checked)
        assert template_key(image, replace(machine, **change), DiskSizes(), FakeSnapshotter(), checked) != before

    def test_other_disks_have_another(self, image: Image, machine: Machine, checked: Path) -> None:
        each = [
            template_key(image, machine, sizes, FakeSnapshotter(), checked)
            for sizes in (DiskSizes(), DiskSizes(1 << 30), DiskSizes(None, (1 << 30,)), DiskSizes(1 << 30, (1 << 30,)))
        ]
        assert len({str(key) for key in each}) == len(each)

    @pytest.mark.parametrize("name", ["disk", "kernel", "initrd"])
    def test_a_changed_file_has_another(self, image: Image, machine: Machine, checked: Path, name: str) -> None:
        before = template_key(image, machine, DiskSizes(), FakeSnapshotter(), checked)
        path: Path = getattr(image, name)
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"?")
        assert template_key(image, machine, DiskSizes(), FakeSnapshotter(), checked) != before
        path.write_bytes(content)
        assert template_key(image, machine, DiskSizes(), FakeSnapshotter(), checked) == before

    @pytest.mark.parametrize(
        "change", [{"user": "debian"}, {"host_keys": ("ssh-ed25519 AAAA",)}, {"format": "qcow2"}], ids=str
    )
    def test_a_changed_image_has_another(
        self, image: Image, machine: Machine, checked: Path, change: dict[str, Any]
    ) -> None:
        before = template_key(image, machine, DiskSizes(), FakeSnapshotter(), checked)
        assert template_key(replace(image, **change), machine, DiskSizes(), FakeSnapshotter(), checked) != before

    @pytest.mark.parametrize("what", ["hypervisor", "computer", "host"])
    def test_another_hypervisor_or_host_has_another(
        self, image: Image, machine: Machine, checked: Path, what: str
    ) -> None:
        before = template_key(image, machine, DiskSizes(), FakeSnapshotter(), checked)
        assert template_key(image, machine, DiskSizes(), FakeSnapshotter(**{what: "another"}), checked) != before

    def test_a_template_has_nothing_of_the_machine_it_is_made_for(self, image: Image) -> None:
        uuid = uuid4()
        one = as_template(named(image, "g-1", UUID(int=1), "52:54:00:00:00:07"), uuid)
        other = as_template(named(image, "g-2", UUID(int=2), "52:54:00:00:00:08"), uuid)
        assert one == other
        assert "g-1" not in one.cmdline.split("=")
        assert one.cmdline.startswith(image.cmdline)
