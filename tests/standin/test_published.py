"""The command line that people publish for Ubuntu, with an image of ours in its place."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from pytest_xhyve.host.home import Home
from pytest_xhyve.images.build import build_image
from pytest_xhyve.model.image import Image
from standin.commandline import Build
from standin.conftest import Start, copy_disk
from standin.iso import write_mini_iso
from standin.mac import Mac

PUBLISHED = (
    "-U 8e7af180-c54d-4aa2-9bef-59d94a1ac572 -A -c 2 -m 2G -s 0:0,hostbridge -s 31,lpc -s 2:0,virtio-net,en0 "
    "-s 4:0,virtio-blk,ubuntu18.img -l com1,stdio "
    '-f kexec,boot/vmlinuz,boot/initrd.img,"earlyprintk=serial console=ttyS0 root=/dev/vda1 ro"'
)
WITH_DISC = PUBLISHED.replace("-s 4:0", "-s 3:0,ahci-cd,mini.iso -s 4:0")


@pytest.fixture(scope="module")
def partitioned() -> Image:
    return build_image("tiny-partitioned", Home.of_user(), print)


# In hyperkit, "virtio-net,en0" is a segmentation fault.
@pytest.mark.parametrize(("words", "build"), [(PUBLISHED, "v0.2.0"), (WITH_DISC, "head")], ids=["disk", "disc"])
def test_boots_to_its_login_prompt(
    partitioned: Image,
    mac: Mac,
    start: Start,
    words: str,
    build: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "boot").mkdir()
    assert partitioned.initrd is not None
    assert partitioned.kernel is not None
    (tmp_path / "boot" / "vmlinuz").symlink_to(partitioned.kernel)
    (tmp_path / "boot" / "initrd.img").symlink_to(partitioned.initrd)
    copy_disk(partitioned, tmp_path / "ubuntu18.img")
    write_mini_iso(tmp_path / "mini.iso")
    monkeypatch.chdir(tmp_path)
    guest = start(*shlex.split(words), build=build)
    guest.console.wait_for(r"login: ")
    assert "Command line: earlyprintk=serial console=ttyS0 root=/dev/vda1 ro\n" in guest.console.text
    assert ("[0106]" in guest.console.text or "class 0x010601" in guest.console.text) == (words is WITH_DISC)
