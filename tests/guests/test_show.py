"""What the command line finds on a disk, and copies out of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run_separately
from foreign import copy_disk, debugfs, make_foreign_disk, replace_file
from warm import fleet_of

from pytest_xhyve.host.digests import digest_of
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.build import build_image
from pytest_xhyve.images.keys import KeyPair
from pytest_xhyve.preparation.disk_file import look
from pytest_xhyve.preparation.examine import _opened
from pytest_xhyve.preparation.facts import Facts
from pytest_xhyve.preparation.host_reader import look_on_host

HOST = KeyPair.generate()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with OpenSSH's configuration, as far as it can be read."""
    folder = tmp_path_factory.mktemp("show")
    (folder / "sshd").write_text("")
    (folder / "sshd_config").write_text("Port 22\nPermitRootLogin no\n")
    (folder / "os-release").write_text('PRETTY_NAME="Foreign \x1b[31m 1"\nID=foreign\nVERSION_ID="1"\n')
    (folder / "interfaces").write_text("auto ens3\niface ens3 inet dhcp\n")
    (folder / "shadow").write_text("root:*:1::::::\nuser:$y$hash:1::::::\n")
    return make_foreign_disk(
        folder / "foreign.img",
        [
            f"write {folder / 'sshd'} /usr/sbin/sshd",
            "mkdir /etc/ssh",
            f"write {folder / 'sshd_config'} /etc/ssh/sshd_config",
            f"write {folder / 'os-release'} /etc/os-release",
            "mkdir /etc/network",
            f"write {folder / 'interfaces'} /etc/network/interfaces",
            "rm /etc/shadow",
            f"write {folder / 'shadow'} /etc/shadow",
        ],
    )


def test_show_prints_what_was_found(disk: Path) -> None:
    before = digest_of(disk)
    result = run_separately("show", str(disk), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["name"], found["arch"], found["examined_by"]) == ("foreign", "x86_64", "debugfs")
    assert (found["partition_table"], found["firmware"]) == (None, [])
    assert found["root"] == {"name": "the whole disk", "type": "ext4", "subvolume": None}
    assert found["volumes"] == [{"name": "the whole disk", "type": "ext4", "bytes": 1 << 30}]
    assert found["system"] == {"name": "Foreign \\x1b[31m 1", "id": "foreign", "version": "1"}
    assert found["kernel"].startswith("/boot/vmlinuz-")
    assert found["cmdline"].startswith("root=/dev/vda rw ")
    assert {user["name"]: user["password"] for user in found["users"]} == {"root": "locked", "user": "set"}
    assert found["network"] == {"cards": ["ens3"], "files": ["/etc/network/interfaces"], "cloud_init": False}
    assert {"path": "/etc/ssh/sshd_config", "line": 2, "key": "permitrootlogin", "value": "no"} in found["ssh_settings"]
    assert "/etc/ssh/sshd_config, line 2: permitrootlogin no" in found["unusable"]
    assert "$y$hash" not in result.output
    assert digest_of(disk) == before


def facts_by_the_helper_guest(disk: Path) -> Facts:
    with fleet_of(Home.of_user(), [], start="cold") as fleet, _opened(look(disk), fleet.run_context()) as helper:
        return helper.look()


@pytest.mark.parametrize("partitioned", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_reader_on_the_host_finds_what_the_helper_guest_finds(disk: Path, *, partitioned: bool) -> None:
    if partitioned:
        disk = build_image("tiny-partitioned", Home.of_user(), print).disk
    found = look_on_host(look(disk))
    expected = facts_by_the_helper_guest(disk)
    assert found is not None
    assert (found.examined_by, expected.examined_by) == ("debugfs", "helper guest")
    assert (found.volumes, found.roots, found.files) == (expected.volumes, expected.roots, expected.files)
    assert {key: sorted(values) for key, values in found.values.items()} == {
        key: sorted(values) for key, values in expected.values.items()
    }


@pytest.mark.thorough
def test_interrupted_look_shows_the_console(disk: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt) as raised,
        fleet_of(Home.of_user(), [], start="cold") as fleet,
        _opened(look(disk), fleet.run_context()),
    ):
        raise KeyboardInterrupt
    (note,) = raised.value.__notes__
    assert note.startswith("guest helper was running meanwhile\n  last on the console:\n")


def test_what_is_not_plain_is_left_to_the_helper_guest(disk: Path, tmp_path: Path) -> None:
    dirty = copy_disk(disk, tmp_path / "dirty.img")
    debugfs(dirty, "feature needs_recovery")
    assert look_on_host(look(dirty)) is None
    separate = copy_disk(disk, tmp_path / "separate.img")
    replace_file(separate, "/etc/fstab", b"# /boot\nUUID=1 /boot ext4 defaults 0 2\n")
    assert look_on_host(look(separate)) is None
    loop = copy_disk(disk, tmp_path / "loop.img")
    debugfs(loop, "rm /etc/os-release", "symlink /etc/os-release /etc/os-release", "symlink /etc/ssh/up ../../../etc")
    found = look_on_host(look(loop))
    assert found is not None
    assert (found.system, found.has("usr/sbin/sshd")) == ("an unknown Linux", True)


@pytest.mark.thorough
def test_show_of_a_partitioned_disk() -> None:
    image = build_image("tiny-partitioned", Home.of_user(), print)
    result = run_separately("show", str(image.disk))
    assert "partition table: dos" in result.stdout
    assert "root:            name: partition 1" in result.stdout
    assert "ssh server:      dropbear" in result.stdout
    assert "unusable" not in result.stdout


@pytest.mark.thorough
def test_boot_files_are_copied_out(disk: Path, tmp_path: Path) -> None:
    image = build_image("tiny", Home.of_user(), print)
    assert image.initrd is not None
    assert image.kernel is not None
    before = digest_of(disk)
    folder = tmp_path / "new" / "boot"
    result = run_separately("boot-files", str(disk), str(folder))
    names = ("vmlinuz", "initrd.img", "cmdline")
    assert result.stdout.split() == [str(folder / name) for name in names]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert digest_of(folder / "vmlinuz") == digest_of(image.kernel)
    assert digest_of(folder / "initrd.img") == digest_of(image.initrd)
    assert (folder / "cmdline").read_text().startswith("root=/dev/vda rw ")
    assert digest_of(disk) == before
