from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_images import KERNEL, qcow2, write_image

from pytest_xhyve.images.catalog import read_source
from pytest_xhyve.images.check import check_boots_by
from pytest_xhyve.images.files import check_files
from pytest_xhyve.images.manifest import Manifest, as_manifest, parse_manifest, read_manifest
from pytest_xhyve.images.own_login import OwnLogin
from pytest_xhyve.images.sources import find_source
from pytest_xhyve.model.errors import ConfigurationError, ImageError
from pytest_xhyve.model.secret import Secret
from pytest_xhyve.preparation.description import describe_image, describe_stated


def test_paths_are_relative_to_the_manifest(tmp_path: Path) -> None:
    image = read_manifest(write_image(tmp_path, memory="2G", cpus=4))
    assert image.name == "ubuntu18"
    assert image.disk == tmp_path / "ubuntu18.img"
    assert image.kernel == tmp_path / "vmlinuz"
    assert (image.memory, image.cpus) == (2 << 30, 4)


@pytest.mark.parametrize(
    ("word", "arch", "cpu"),
    [
        ("x86_64", "x86_64", "x86-64-v2"),
        ("amd64", "x86_64", "x86-64-v2"),
        ("aarch64", "aarch64", "armv8.0"),
        ("arm64", "aarch64", "armv8.0"),
    ],
)
def test_architecture_has_two_names(tmp_path: Path, word: str, arch: str, cpu: str) -> None:
    image = read_manifest(write_image(tmp_path, arch=word))
    assert (image.arch, image.cpu) == (arch, cpu)


def test_image_without_an_architecture_is_for_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_image(tmp_path, arch=None)
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert read_manifest(manifest).arch == "aarch64"
    monkeypatch.setattr(platform, "machine", lambda: "AMD64")
    assert read_manifest(manifest).arch == "x86_64"


def test_disk_that_boots_by_its_own_loader_needs_no_kernel(tmp_path: Path) -> None:
    image = read_manifest(write_image(tmp_path, firmware="uefi", kernel=None, initrd=None, cmdline=None))
    assert (image.firmware, image.kernel, image.cmdline) == ("uefi", None, "")
    assert read_manifest(write_image(tmp_path, firmware="bios")).kernel == tmp_path / "vmlinuz"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"firmware": "efi"}, "firmware: 'efi' is not one of bios, uefi; did you mean uefi"),
        ({"firmware": None, "kernel": None}, "missing kernel\n.*with firmware, no kernel"),
        ({"firmware": "bios", "user": None}, "missing user"),
        ({"cpuss": 2}, "unknown key 'cpuss'; did you mean cpus"),
        ({"cpus": 0}, "cpus: 0 is not a whole number"),
        ({"cpus": True}, "cpus: True is not"),
        ({"memory": "12x"}, "memory: '12x' is not a size"),
        ({"disk": None}, "missing disk"),
        ({"kernel": ["a"]}, "kernel: expected text"),
        ({"format": "vmdk"}, "format: 'vmdk' is not one of raw, qcow2"),
        ({"arch": "i386"}, "arch: 'i386' is not one of x86_64, amd64, aarch64, arm64"),
        ({"arch": "arm64", "cpu": "x86-64-v2"}, "cpu: 'x86-64-v2' is not one of armv8.0, armv8.2, which aarch64 has"),
        ({"arch": "amd64", "cpu": "armv8.0"}, "cpu: 'armv8.0' is not one of x86-64-v1, .* which x86_64 has"),
        ({"arch": 64}, "arch: 64 is not one of"),
        ({"host_keys": []}, "host_keys: expected a list"),
        ({"host_keys": "ssh-ed25519 AAAA"}, "host_keys: expected a list"),
        ({"user": " "}, "user: expected text"),
        ({"user": "root ProxyCommand"}, "user: 'root ProxyCommand' is not the name of a user"),
        ({"user": "-root"}, "is not the name of a user"),
        ({"user": "%h"}, "is not the name of a user"),
        ({"made": "by hand"}, "made: expected a mapping"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    manifest = write_image(tmp_path, **changes)
    with pytest.raises(ConfigurationError, match=message) as raised:
        read_manifest(manifest)
    assert str(manifest) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is not YAML"), ("- a", "is a mapping"), ("", "is a mapping"), ("!!python/object:os.system {}", "YAML")],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_manifest(path)


def test_every_key_but_the_disk_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    path.write_text("disk: any.vmdk\n")
    manifest = parse_manifest(path)
    assert (manifest.name, manifest.disk) == ("web", tmp_path / "any.vmdk")
    assert manifest.missing == ("kernel", "cmdline", "user", "key", "host_keys")
    with pytest.raises(ConfigurationError, match="missing kernel, cmdline, user, key, host_keys"):
        manifest.image()
    assert parse_manifest(write_image(tmp_path)).missing == ()


def test_bare_disk_states_only_itself(tmp_path: Path) -> None:
    disk = tmp_path / "a b.img"
    disk.write_bytes(b"disk")
    manifest = read_source(str(disk), find_source(disk))
    assert manifest is not None
    assert (manifest.path, manifest.name, manifest.disk) == (None, "a-b", disk)


@pytest.mark.parametrize("value", ["12345", "[hush]", "''", "{a: hush}", "'hush", "0x", "hush\n  more: hush: hush"])
def test_error_about_a_password_does_not_show_it(tmp_path: Path, value: str) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(f"disk: a.img\nuser: joe\npassword: {value}\n")
    try:
        manifest = parse_manifest(path)
    except ConfigurationError as error:
        assert "password" in str(error) or "is not YAML" in str(error)
        assert "hush" not in str(error)
        assert "12345" not in str(error)
    else:
        assert "hush" not in repr(manifest)


def test_password_is_read_and_not_printed(tmp_path: Path) -> None:
    manifest = parse_manifest(write_image(tmp_path, password="hush", key=None, user="joe"))
    assert manifest.missing == ()
    assert (manifest.own_user, manifest.needs_password) == ("joe", False)
    image = manifest.image()
    assert image.password == Secret("hush")
    assert "hush" not in f"{image} {as_manifest(image)} {manifest} {describe_stated(manifest)} {describe_image(image)}"
    # Who reads what was printed still knows that the login needs one.
    path = tmp_path / "printed.yaml"
    path.write_text(yaml.safe_dump(as_manifest(image)))
    assert parse_manifest(path).needs_password


def test_user_without_key_and_password_needs_one(tmp_path: Path) -> None:
    manifest = parse_manifest(write_image(tmp_path, key=None, user="joe"))
    assert (manifest.missing, manifest.own_user, manifest.needs_password) == ((), "joe", True)
    # For root there is the plugin's key, which has to be written.
    manifest = parse_manifest(write_image(tmp_path, key=None))
    assert (manifest.missing, manifest.own_user, manifest.needs_password) == (("key",), None, False)


def test_root_may_have_a_login_of_the_disks_own(tmp_path: Path) -> None:
    path = write_image(tmp_path, key=None)
    asked = OwnLogin("root").applied_to(parse_manifest(path))
    assert (asked.own_user, asked.needs_password) == ("root", True)
    path.write_text(path.read_text() + "password:\n")
    manifest = parse_manifest(path)
    assert (manifest.missing, manifest.own_user, manifest.needs_password) == ((), "root", True)


def test_options_beat_the_manifest(tmp_path: Path) -> None:
    manifest = parse_manifest(write_image(tmp_path, password="hush", user="joe"))
    own = OwnLogin("ann", tmp_path / "key", Secret("other")).applied_to(manifest)
    assert (own.own_user, own.values["key"], own.values["password"]) == ("ann", tmp_path / "key", Secret("other"))
    assert OwnLogin().applied_to(manifest) == manifest


@pytest.mark.parametrize(
    ("login", "message"),
    [
        (OwnLogin(key=Path("/no/key")), "--xhyve-key: cannot read /no/key"),
        (OwnLogin(key=Path(__file__)), "--xhyve-key: .* is not a private key"),
        (OwnLogin(seed=Path("/no/seed")), "--xhyve-seed: /no/seed is not a folder"),
        (OwnLogin(seed=Path(__file__).parent), "--xhyve-seed: .* has no file user-data"),
    ],
)
def test_login_that_cannot_be_used(login: OwnLogin, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        login.applied_to(Manifest.of_disk(Path("/disk.img")))


def test_format_is_found_out(tmp_path: Path) -> None:
    path = write_image(tmp_path)
    assert read_manifest(path).format == "raw"
    qcow2(tmp_path / "ubuntu18.img")
    assert read_manifest(path).format == "qcow2"


def test_printed_manifest_describes_the_same_image(tmp_path: Path) -> None:
    image = read_manifest(write_image(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "ubuntu18.yaml").write_text(yaml.safe_dump(as_manifest(image)))
    again = as_manifest(read_manifest(elsewhere / "ubuntu18.yaml"))
    assert again == as_manifest(image)


@pytest.mark.parametrize(
    ("arch", "kernel", "message"),
    [
        (
            "aarch64",
            KERNEL,
            r"is a Linux kernel for x86_64 .format bzImage., but guests are aarch64\n  write `arch: x86_64`, or",
        ),
        (
            "x86_64",
            bytes(56) + b"ARM\x64" + bytes(100),
            r"is a Linux kernel for aarch64 .format Image., but guests are x86_64\n  write `arch: aarch64`, or name",
        ),
    ],
)
def test_kernel_for_another_architecture(tmp_path: Path, arch: str, kernel: bytes, message: str) -> None:
    image = read_manifest(write_image(tmp_path, arch=arch))
    assert image.kernel is not None
    image.kernel.write_bytes(kernel)
    with pytest.raises(ImageError, match=message):
        check_files(image)


def test_no_bios_for_arm64(tmp_path: Path) -> None:
    image = read_manifest(write_image(tmp_path, arch="arm64", firmware="bios"))
    with pytest.raises(ImageError, match='a machine of aarch64 has no BIOS\n  use firmware="uefi"'):
        check_boots_by("bios", image)
