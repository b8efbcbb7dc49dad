"""Templates whose image has moved, without a guest."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fake_templates import PREPARED, FakeSnapshotter

from pytest_xhyve.host.clone import overlay_disk
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.backing import backing_files
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk, DiskSizes, Machine
from pytest_xhyve.templates.cache import TemplateCache
from pytest_xhyve.templates.identity import AgentState


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img makes the overlay")
@pytest.mark.parametrize("leave", ["nothing", "the same", "another file"])
def test_template_follows_its_image(tmp_path: Path, image: Image, machine: Machine, leave: str) -> None:
    home, said = Home(tmp_path / "home"), list[str]()
    cache = TemplateCache(home, 1 << 30, said.append)

    def make(workspace: Path, template: Machine) -> tuple[tuple[Disk, ...], AgentState]:
        (workspace / "state").write_bytes(b"state")
        return (overlay_disk(Disk(image.disk, "raw"), workspace, frozenset({"raw", "qcow2"})),), PREPARED

    with cache.using(image, machine, DiskSizes(), FakeSnapshotter(), make) as before:
        pass
    said.clear()
    (tmp_path / "elsewhere").mkdir()
    moved = replace(image, disk=Path(shutil.copy(image.disk, tmp_path / "elsewhere" / "own.img")))
    if leave == "nothing":
        image.disk.unlink()
    elif leave == "another file":
        image.disk.write_bytes(b"?" * image.disk.stat().st_size)
    with cache.using(moved, machine, DiskSizes(), FakeSnapshotter(), make) as after:
        (base,) = backing_files(after.disks[0].path, "qcow2")
        assert base == (image.disk if leave == "the same" else moved.disk)
        assert (after.folder == before.folder) == (leave == "the same")
        assert (after.folder / "state").read_bytes() == b"state"
    assert said == []
