"""A disk without a manifest, a login or a host key becomes a guest."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from command_line import run_separately
from foreign import copy_disk, debugfs, make_foreign_disk, replace_file
from homes import share
from warm import fleet_of, is_warm

from pytest_xhyve.cli.prune_candidates import find_candidates
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.digests import digest_of
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.images.build import build_image
from pytest_xhyve.images.keys import KeyPair
from pytest_xhyve.images.manifest import Manifest
from pytest_xhyve.model.errors import BootFailed, ImageError
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.preparation.prepared import describe_duration, find_prepared

LAYERS = "prepared"


@pytest.fixture(scope="module")
def bare_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return share(Home.of_user(), tmp_path_factory.mktemp("bare") / "home")


@pytest.fixture(scope="module")
def bare_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    disk = make_foreign_disk(tmp_path_factory.mktemp("disk") / "foreign, é=1.img")
    yield disk
    disk.unlink()


def test_bare_disk_becomes_a_guest_once(bare_home: Home, bare_disk: Path) -> None:
    before = digest_of(bare_disk)
    said: list[str] = []
    with fleet_of(bare_home, said, str(bare_disk), start="cold") as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec()))
        assert guest.image.name == "foreign-1"
        # Only the preparation had more CPUs.
        assert guest.run("id -un; grep -c ^processor /proc/cpuinfo").stdout == "root\n1\n"
        guest.run("echo written > /written")
    assert [line for line in said if "prepared foreign, é=1.img in" in line]
    assert describe_duration(bare_home).startswith("usually takes about ")
    assert find_prepared(Manifest.of_disk(bare_disk), bare_home) is not None
    assert find_prepared(Manifest.of_disk(bare_disk).with_values(cmdline="root=/dev/vda"), bare_home) is None
    said.clear()
    with fleet_of(bare_home, said, str(bare_disk), start="warm") as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec()))
        assert is_warm(guest)
        assert guest.run("test -e /written", check=False).returncode == 1
    assert not [line for line in said if "prepar" in line]
    assert digest_of(bare_disk) == before
    layer = next(bare_home.folder(LAYERS).glob("*/layer.qcow2"))
    assert layer.stat().st_size < 64 << 20


@pytest.fixture
def prepared_disk(bare_home: Home, bare_disk: Path) -> Path:
    """The disk, with its layer in the cache folder."""
    with fleet_of(bare_home, [], str(bare_disk)) as fleet:
        fleet.catalog.find(bare_disk)
    return bare_disk


def test_content_decides_and_not_the_path(bare_home: Home, prepared_disk: Path, tmp_path: Path) -> None:
    moved = copy_disk(prepared_disk, tmp_path / "moved.img")
    said: list[str] = []
    with fleet_of(bare_home, said, str(moved), start="cold") as fleet:
        fleet.catalog.find(moved)
    assert not [line for line in said if "prepar" in line]


def test_imported_ahead_of_time(bare_home: Home, bare_disk: Path, tmp_path: Path) -> None:
    home = {HOME_VARIABLE: str(bare_home.path)}
    result = run_separately("import", str(bare_disk), "--name", "web", **home)
    manifest = yaml.safe_load(result.stdout)
    assert manifest["made"]["from"] == str(bare_disk)
    assert (manifest["name"], manifest["user"], manifest["made"]["state"]) == ("web", "root", "running")
    assert manifest["key"] == str(bare_home.folder("keys") / "id_ed25519")
    # What was printed is a manifest that needs nothing else, wherever it is.
    printed = tmp_path / "web.yaml"
    printed.write_text(result.stdout)
    assert yaml.safe_load(run_separately("import", str(printed), **home).stdout) == manifest
    assert [each for each in find_candidates(bare_home) if each.kind == "prepared disk"] == []
    (candidate,) = (each for each in find_candidates(bare_home, images=True) if each.kind == "prepared disk")
    assert candidate.name.startswith("foreign-1 (")


@pytest.mark.thorough
def test_what_a_manifest_states_is_taken(bare_home: Home, bare_disk: Path, tmp_path: Path) -> None:
    own, host = KeyPair.generate(), KeyPair.generate()
    (tmp_path / "own_key").write_bytes(own.private)
    (tmp_path / "own_key").chmod(0o600)
    (tmp_path / "authorized_keys").write_text(f"{own.public}\n")
    (tmp_path / "host_key").write_bytes(host.dropbear)
    disk = copy_disk(bare_disk, tmp_path / "stated.img")
    debugfs(
        disk,
        f"write {tmp_path / 'authorized_keys'} /root/.ssh/authorized_keys",
        f"write {tmp_path / 'host_key'} /etc/dropbear/dropbear_ed25519_host_key",
    )
    kernel = shutil.copyfile(str(build_image("tiny", Home.of_user(), print).kernel), tmp_path / "own-kernel")
    initrd = shutil.copyfile(str(build_image("tiny", Home.of_user(), print).initrd), tmp_path / "own-initrd")
    stated = {
        "name": "own",
        "disk": disk.name,
        "sha256": digest_of(disk),
        "kernel": kernel.name,
        "initrd": Path(initrd).name,
        "key": "own_key",
        "host_keys": [host.public],
        "memory": "192M",
    }
    manifest = tmp_path / "own.yaml"
    manifest.write_text(yaml.safe_dump(stated))
    with fleet_of(bare_home, [], str(manifest), start="cold") as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec()))
        image = guest.image
        assert (image.name, image.user, image.key) == ("own", "root", tmp_path / "own_key")
        assert (image.kernel, image.memory) == (kernel, 192 << 20)
        assert image.host_keys == (host.public,)
        assert image.cmdline.startswith("root=/dev/vda rw ")
        # The plugin's key is not written, as the manifest states another one.
        assert guest.run("cat /root/.ssh/authorized_keys").stdout == f"{own.public}\n"
    assert kernel.stat().st_mode & 0o200
    manifest.write_text(yaml.safe_dump(stated | {"sha256": "0" * 64}))
    with fleet_of(bare_home, [], str(manifest)) as fleet, pytest.raises(ImageError, match="was altered: its SHA-256"):
        fleet.catalog.find(manifest)


@pytest.mark.thorough
def test_format_that_qemu_cannot_restore(bare_home: Home, bare_disk: Path, tmp_path: Path) -> None:
    disk = tmp_path / "exported.vmdk"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", bare_disk, disk], check=True)
    before = digest_of(disk)
    with fleet_of(bare_home, [], str(disk), start="warm") as fleet:
        assert is_warm(fleet.start(ForegroundRequest(GuestSpec())))
    assert digest_of(disk) == before


@pytest.mark.thorough
def test_compressed_disk(bare_home: Home, prepared_disk: Path, tmp_path: Path) -> None:
    disk = tmp_path / "small.img.zst"
    subprocess.run(["zstd", "-q", "-1", prepared_disk, "-o", disk], check=True)
    before = digest_of(disk)
    said: list[str] = []
    with fleet_of(bare_home, said, str(disk), start="cold") as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec()))
        assert guest.image.name == "small"
        assert guest.run("id -un").stdout == "root\n"
    # The content is that of a disk that was prepared before.
    assert [line for line in said if line.startswith("unpacking small.img.zst (")]
    assert not [line for line in said if "preparing" in line]
    assert digest_of(disk) == before


@pytest.mark.thorough
def test_disk_that_cannot_become_a_guest_leaves_nothing(bare_home: Home, bare_disk: Path, tmp_path: Path) -> None:
    locked = copy_disk(bare_disk, tmp_path / "locked.img")
    debugfs(locked, "rm /usr/sbin/dropbear")
    layers = set(bare_home.folder(LAYERS).glob("*/"))
    with (
        fleet_of(bare_home, [], str(locked), start="cold") as fleet,
        pytest.raises(ImageError, match="has no SSH server"),
    ):
        fleet.catalog.find(locked)
    assert set(bare_home.folder(LAYERS).glob("*/")) == layers
    assert not list(bare_home.folder(LAYERS).glob(".*"))


@pytest.mark.long
def test_system_that_does_not_boot(bare_home: Home, bare_disk: Path, tmp_path: Path) -> None:
    broken = copy_disk(bare_disk, tmp_path / "broken.img")
    debugfs(broken, "rm /usr/sbin/init", "mkdir /etc/network")
    replace_file(broken, "/etc/network/interfaces", b"iface eth0 inet static\n")
    layers = set(bare_home.folder(LAYERS).glob("*/"))
    with fleet_of(bare_home, [], str(broken), start="cold") as fleet, pytest.raises(BootFailed) as raised:
        fleet.catalog.find(broken)
    assert str(raised.value).startswith(f"cannot prepare {broken}: ")
    assert raised.value.console
    assert (
        "the network card has a fixed address, and guests get theirs by DHCP: /etc/network/interfaces, line 1"
        in str(raised.value)
    )
    assert set(bare_home.folder(LAYERS).glob("*/")) == layers


def test_disk_in_use_is_refused(bare_home: Home, bare_disk: Path, tmp_path: Path) -> None:
    used = tmp_path / "used.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", bare_disk, "-F", "raw", used], check=True)
    program = shutil.which("qemu-io")
    assert program is not None
    writer = subprocess.Popen([program, "-f", "qcow2", used], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write("length\n")
        writer.stdin.flush()
        writer.stdout.readline()
        with (
            fleet_of(bare_home, [], str(used), start="cold") as fleet,
            pytest.raises(ImageError, match="in use by another program"),
        ):
            fleet.catalog.find(used)
    finally:
        writer.kill()
        writer.communicate()
