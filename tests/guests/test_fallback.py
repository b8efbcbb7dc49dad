"""Where no guest can be restored from a template, it boots: a template never makes a run fail."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from warm import fleet_of, is_warm, templates

from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.errors import TemplateError
from pytest_xhyve.model.machine import Disk, Machine
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.templates import cache
from pytest_xhyve.templates import identity as renewal
from pytest_xhyve.templates.store import ABOUT, Template, TemplateStore

needs_mounts = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


def boots_cold(said: list[str]) -> str:
    """Why, as the one line says that has to."""
    (line,) = [line for line in said if "so they boot" in line]
    assert "\n" not in line
    return line


@pytest.fixture
def forged(template: Path, other_home: Home) -> Template:
    """A template that is as it was saved, but was saved badly."""
    store = TemplateStore(other_home.folder("templates"), other_home.folder("checked"))
    key = template.name.split(".")[0]
    with store.workspace(key) as workspace:
        for path in template.iterdir():
            if path.name != ABOUT:
                subprocess.run(["cp", "--sparse=always", str(path), str(workspace)], check=True)
        state = (workspace / "state").read_bytes()
        (workspace / "state").write_bytes(state[:5000] + os.urandom(len(state) - 5000))
        (good,) = [one for one in TemplateStore(template.parent, other_home.folder("checked")).all() if one.key == key]
        store.publish(workspace, key, "tiny", [Disk(workspace / "disk.qcow2", "qcow2")], good.agent)
    (made,) = store.all()
    return made


@pytest.mark.thorough
@pytest.mark.usefixtures("forged")
def test_one_that_cannot_be_restored_is_set_aside(other_home: Home, said: list[str]) -> None:
    with fleet_of(other_home, said, start="auto") as fleet:
        first = fleet.start(ForegroundRequest(GuestSpec()))
        assert not is_warm(first)
        assert first.run("hostname").stdout.strip() == first.name
        assert "cannot restore the guest" in boots_cold(said)
        assert templates(other_home) == []
        assert is_warm(fleet.start(ForegroundRequest(GuestSpec())))


@pytest.mark.usefixtures("forged")
def test_where_warm_was_asked_for_it_is_an_error(other_home: Home, said: list[str]) -> None:
    with fleet_of(other_home, said) as fleet, pytest.raises(TemplateError, match="cannot restore the guest"):
        fleet.start(ForegroundRequest(GuestSpec()))


@contextmanager
def small_disk(home: Home, size: str) -> Iterator[None]:
    folder = home.folder("templates")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@needs_mounts
def test_a_full_disk_is_seen_up_front(other_home: Home, said: list[str]) -> None:
    with small_disk(other_home, "64m"), fleet_of(other_home, said, start="auto") as fleet:
        assert not is_warm(fleet.start(ForegroundRequest(GuestSpec())))
        assert "64 MiB are free" in boots_cold(said)


@needs_mounts
def test_a_disk_that_becomes_full(other_home: Home, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # The first check finds enough space.
    monkeypatch.setattr(cache, "_OVERHEAD", -(1 << 40))
    with small_disk(other_home, "48m"), fleet_of(other_home, said, start="auto") as fleet:
        assert not is_warm(fleet.start(ForegroundRequest(GuestSpec())))
        assert "no space left" in boots_cold(said)
        assert list(other_home.folder("templates").glob(".*")) == []


@pytest.mark.thorough
def test_a_guest_without_the_serial_port_boots(
    other_home: Home, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the four that the kernel has names for, two have hardware.
    monkeypatch.setattr(renewal, "_INSTALL", renewal._INSTALL.replace("PORT", "/dev/ttyS3"))
    with fleet_of(other_home, said, start="auto") as fleet:
        for _ in range(2):
            guest = fleet.start(ForegroundRequest(GuestSpec()))
            assert not is_warm(guest)
            guest.run("true")
        assert "no serial port /dev/ttyS3" in boots_cold(said)


@pytest.mark.thorough
def test_a_guest_whose_user_cannot_become_root_boots(other_home: Home, said: list[str], tmp_path: Path) -> None:
    with fleet_of(other_home, said, start="cold") as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec()))
        guest.run(
            "echo 'joe:x:1234:1234::/home/joe:/bin/sh' >>/etc/passwd; echo 'joe:x:1234:' >>/etc/group;"
            "echo 'joe:*:19000:0:99999:7:::' >>/etc/shadow; mkdir -p /home/joe/.ssh;"
            "cp /root/.ssh/authorized_keys /home/joe/.ssh/; chmod -R go= /home/joe; chown -R 1234:1234 /home/joe"
        )
        guest.shutdown()
        (disk,) = guest.machine.disks
        subprocess.run(
            ["qemu-img", "convert", "-f", disk.format, "-O", "qcow2", str(disk.path), str(tmp_path / "joe.qcow2")],
            check=True,
        )
        of = guest.image
    manifest = tmp_path / "joe.yaml"
    manifest.write_text(
        f"disk: joe.qcow2\nformat: qcow2\nkernel: {of.kernel}\ninitrd: {of.initrd}\ncmdline: {of.cmdline}\n"
        f"user: joe\nkey: {of.key}\nmemory: 256M\nhost_keys: ['{of.host_keys[0]}']\n"
    )
    with fleet_of(other_home, said, str(manifest), start="auto") as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec()))
        assert not is_warm(guest)
        assert guest.run("id -un").stdout == "joe\n"
        assert "cannot build a template of joe: cannot install the agent in the guest" in boots_cold(said)


@pytest.mark.thorough
def test_one_that_adds_a_disk_has_the_guest_boot(home: Home, said: list[str], tmp_path: Path) -> None:
    def change(machine: Machine) -> Machine:
        with (tmp_path / "more.raw").open("wb") as file:
            file.truncate(1 << 20)
        return replace(machine, disks=(*machine.disks, Disk(tmp_path / "more.raw")))

    with fleet_of(home, said, start="auto") as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec(), hook=change))
        assert not is_warm(guest)
        assert guest.run("cat /sys/block/vdb/size").stdout == "2048\n"
        assert "pytest_xhyve_machine has changed the disks" in boots_cold(said)


def test_one_that_writes_to_the_disk_has_the_guest_boot(home: Home, said: list[str]) -> None:
    def change(machine: Machine) -> Machine:
        path = machine.disks[0].path
        path.write_bytes(path.read_bytes())
        return machine

    with fleet_of(home, said, start="auto") as fleet:
        assert not is_warm(fleet.start(ForegroundRequest(GuestSpec(), hook=change)))
        assert "has changed the disks" in boots_cold(said)
