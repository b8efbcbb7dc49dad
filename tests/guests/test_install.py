"""An unattended installation, by a stand-in for an installer: tiny's kernel on a disc that is laid out as Debian's."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pycdlib
import pytest
from killing import processes_of
from listening import Recorder
from waiting import becomes

from pytest_xhyve import ImageError
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.host.vanishing import find_existing
from pytest_xhyve.images.build import build_image
from pytest_xhyve.images.initrd import Entry, cpio_archive
from pytest_xhyve.images.manifest import parse_manifest
from pytest_xhyve.images.places import Places
from pytest_xhyve.images.sources import find_source
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.preparation.install import InstallOptions, install

INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /dev /proc
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod "$module"; done </modules
/bin/busybox sleep 1
exec >/dev/console 2>&1
echo "installing $(/bin/busybox grep hostname /preseed.cfg)"
{step}
/bin/busybox sync
/bin/busybox poweroff -f
"""
WRITES = "echo installed | /bin/busybox dd of=/dev/vda conv=fsync"


@pytest.fixture
def fleet(home: Home, said: list[str]) -> Iterator[Fleet]:
    with closing(Fleet(Settings(hypervisor="qemu"), home, Recorder(said))) as fleet:
        yield fleet


def write_disc(path: Path, home: Home, step: str) -> Path:
    image = build_image("tiny", home, print)
    assert image.kernel is not None
    assert image.initrd is not None
    initrd = image.initrd.read_bytes()
    # The kernel takes the last file of a name.
    initrd += bytes(-len(initrd) % 4) + cpio_archive([Entry("init", 0o100755, INIT.format(step=step).encode())])
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, rock_ridge="1.09")
    iso.add_directory("/INSTALL_AMD", rr_name="install.amd")
    for name, short, content in (
        ("vmlinuz", "VMLINUZ.", image.kernel.read_bytes()),
        ("initrd.gz", "INITRD.GZ", initrd),
    ):
        iso.add_fp(io.BytesIO(content), len(content), f"/INSTALL_AMD/{short};1", rr_name=name)
    iso.write(str(path))
    iso.close()
    return path


def test_installer_writes_a_disk(fleet: Fleet, home: Home, tmp_path: Path) -> None:
    iso = write_disc(tmp_path / "cd.iso", home, WRITES)
    path = install(iso, "mine", InstallOptions(size=64 << 20, memory=256 << 20, cpus=1), fleet.run_context())
    manifest = parse_manifest(path)
    assert b"installed\n" in manifest.disk.read_bytes()
    assert (manifest.name, manifest.needs_preparation) == ("mine", True)
    assert find_source("mine", places=Places(home.path)).manifest == path


@pytest.mark.thorough
def test_killed_installation(fleet: Fleet, home: Home, tmp_path: Path) -> None:
    waits = write_disc(tmp_path / "waits.iso", home, "/bin/busybox sleep 600")
    folder = home.folder("installed")
    argv = [sys.executable, "-m", "pytest_xhyve.cli", "install", "--memory=256M", "--size=64M", str(waits), "mine"]
    with subprocess.Popen(argv, env={**os.environ, HOME_VARIABLE: str(home.path)}, stderr=subprocess.DEVNULL) as killed:
        assert becomes(lambda: bool(find_existing(folder, ".mine.*/disk*")), 60)
        assert becomes(lambda: any("qemu" in process.name() for process in processes_of(home)), 60)
        killed.kill()
    assert becomes(lambda: not processes_of(home), 30), processes_of(home)
    assert not (folder / "mine").exists()
    works = write_disc(tmp_path / "works.iso", home, WRITES)
    path = install(works, "mine", InstallOptions(size=64 << 20, memory=256 << 20, cpus=1), fleet.run_context())
    assert [each.name for each in folder.iterdir() if each.is_dir()] == [path.parent.name]


@pytest.mark.thorough
def test_installation_that_does_not_end(fleet: Fleet, home: Home, tmp_path: Path) -> None:
    iso = write_disc(tmp_path / "cd.iso", home, 'echo "Which colour?"; /bin/busybox sleep 600')
    options = InstallOptions(size=64 << 20, memory=256 << 20, cpus=1, silence=20.0)
    with pytest.raises(ImageError, match=r"(?s)silent for 20 s: it may wait for an answer.*Which colour\?"):
        install(iso, "mine", options, fleet.run_context())
    # As the text frontend of Debian's installer ends a question.
    asks = write_disc(
        tmp_path / "asks.iso", home, """printf "1: red, 2: blue\nPrompt: '?' for help> "; /bin/busybox sleep 600"""
    )
    with pytest.raises(ImageError, match=r"(?s)it asks a question that has no answer.*1: red, 2: blue"):
        install(asks, "mine", replace(options, question=2.0), fleet.run_context())
    with pytest.raises(ImageError, match=r"did not end within 2 s"):
        install(iso, "mine", replace(options, limit=2.0), fleet.run_context())
    assert not (home.path / "installed" / "mine").exists()
