"""Bundles that do not fit this host: what is refused, and what the message says."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from fake_templates import FakeSnapshotter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_xhyve.fleet.bundle import Bundle, BundleError
from pytest_xhyve.fleet.bundled_image import find_image
from pytest_xhyve.fleet.resuming import ResumeOptions, Resumption
from pytest_xhyve.formats.bundle_file import BundleWriter, DamagedBundle
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.keys import KeyPair
from pytest_xhyve.model.errors import ConfigurationError, ImageError
from pytest_xhyve.model.failure import Failure
from pytest_xhyve.model.link import Impairment
from pytest_xhyve.templates.login import fingerprint
from pytest_xhyve.templates.saved_guest import SavedDisk, SavedFile, SavedGuest, SavedImage

FAILURE = Failure("test_it.py::test_fails", "call", "it failed", "it failed here", 1.0, "run", (), {})

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=4,
)


@pytest.fixture
def image(tmp_path: Path) -> SavedImage:
    """An image of this host, as a bundle names it."""
    files = {name: tmp_path / name for name in ("disk.raw", "vmlinuz", "key")}
    files["disk.raw"].write_bytes(bytes(1 << 16))
    files["vmlinuz"].write_bytes(b"a kernel")
    files["key"].write_bytes(KeyPair.generate().private)
    files["key"].chmod(0o600)
    host_key = KeyPair.generate().public
    manifest = tmp_path / "it.yaml"
    values = {
        "disk": "disk.raw",
        "kernel": "vmlinuz",
        "cmdline": "root=/dev/vda",
        "user": "root",
        "key": "key",
        "host_keys": [host_key],
        "memory": "64M",
    }
    manifest.write_text(yaml.safe_dump(values))

    def saved(name: str) -> SavedFile:
        return SavedFile(str(files[name]), hashlib.sha256(files[name].read_bytes()).hexdigest())

    login = fingerprint(files["key"])
    return SavedImage(
        "it", str(manifest), saved("disk.raw"), "raw", (), saved("vmlinuz"), None, "root", (host_key,), login
    )


@pytest.fixture
def guest(image: SavedImage) -> SavedGuest:
    return SavedGuest(
        key="web",
        name="web",
        uuid="08d45b4f-6264-5b9c-af3a-4f2edeb72f4b",
        cpus=1,
        cpu="x86-64-v2",
        memory=64 << 20,
        mac="52:54:00:00:00:01",
        cmdline="",
        graphics=False,
        firmware=None,
        image=image,
        disks=(SavedDisk(("qcow2",), over_image=True),),
        depends_on={"hypervisor": "qemu 7.2.0", "computer": "-smp 1"},
        has_memory=True,
        agent=None,
        made=("by hand",),
    )


def write(path: Path, about: dict[str, Any], members: tuple[str, ...]) -> Path:
    with path.open("w+b") as file:
        writer = BundleWriter(file, about)
        for member in members:
            writer.add(member, [b"content"])
        writer.finish()
    return path


def about(guest: SavedGuest) -> dict[str, Any]:
    return {"failure": FAILURE.to_dict(), "guests": [guest.to_dict()]}


def resumption(guest: SavedGuest, home: Home, key: Path | None = None, **depends: str) -> Resumption:
    snapshotter = FakeSnapshotter(**depends)
    hypervisor = SimpleNamespace(snapshotter=snapshotter, info=SimpleNamespace(name="qemu"))
    context = cast("Any", SimpleNamespace(home=home, hypervisor_for=lambda _: hypervisor))
    said: list[str] = []
    image = find_image(guest.image, home, None)
    return Resumption(cast("Any", None), guest, image, context, ResumeOptions(None, key, False, said.append))


def test_bundle_is_read_as_it_was_written(tmp_path: Path, guest: SavedGuest) -> None:
    path = write(tmp_path / "it.xhyve", about(guest), tuple(guest.members()))
    with Bundle.open(path) as bundle:
        assert bundle.guests == (guest,)
        assert bundle.failure == FAILURE


@pytest.fixture
def _description(guest: SavedGuest, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = {"about": on_lan(guest), "members": list(guest.members())}
    (tmp_path_factory.getbasetemp() / "about.json").write_text(json.dumps(content))


def test_missing_member_is_reported(tmp_path: Path, guest: SavedGuest) -> None:
    path = write(tmp_path / "it.xhyve", about(guest), tuple(guest.members())[:-1])
    with pytest.raises(BundleError, match=r"it\.xhyve is cut off: web/disk0\.0 is missing"), Bundle.open(path):
        pass


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../web"},
        {"key": "a/b"},
        {"uuid": "no"},
        {"mac": "52:54,script=/bin/sh"},
        {"disks": []},
        {"disks": [{"layers": ["vmdk"], "over_image": False}]},
        {"disks": [{"layers": [], "over_image": True}]},
        {"memory": -1},
        {"cpus": "many"},
        {"firmware": "/etc/passwd"},
        {"image": None},
        {"unknown": 1},
        {"cmdline": 5},
        {"memory": 0.5},
        {"cpus": True},
        {"depends_on": "x"},
        {"depends_on": {"hypervisor": 1}},
        {"agent": 5},
        {"cmdline": "a\0b"},
    ],
)
def test_impossible_values_are_refused(guest: SavedGuest, change: dict[str, Any]) -> None:
    with pytest.raises(DamagedBundle, match="its description of a guest is not valid"):
        SavedGuest.from_dict({**guest.to_dict(), **change})


@pytest.mark.parametrize("arch", ["riscv64", "", None, ["x86_64"]])
def test_architecture_of_no_guest_is_refused(guest: SavedGuest, arch: object) -> None:
    content = guest.to_dict()
    content["image"]["arch"] = arch
    with pytest.raises(DamagedBundle, match="its description of a guest is not valid"):
        SavedGuest.from_dict(content)


def test_bundle_without_an_architecture_is_of_x86_64(guest: SavedGuest) -> None:
    content = guest.to_dict()
    del content["image"]["arch"]
    assert SavedGuest.from_dict(content).image.arch == "x86_64"


LAN = {
    "name": "lan",
    "links": [
        {"source": "web", "target": "db", "blocked": True, "impairment": {"latency": 0.1, "loss": 0.5}, "seed": "3"}
    ],
}
PLACE = {
    "name": "web",
    "cards": [{"lan": 0, "address": "192.168.77.1/24", "is_pulled": True}],
    "hosts": "192.168.77.1 web web.lan\n",
}


def on_lan(guest: SavedGuest, lan: object = LAN, place: object = PLACE) -> dict[str, Any]:
    described = {**guest.to_dict(), "lan_macs": ["52:55:00:00:00:01"], "place": place, "faults": [["LAN lan", "cut"]]}
    return {"failure": FAILURE.to_dict(), "guests": [described], "lans": [lan]}


def test_lan_is_read_as_it_was_written(tmp_path: Path, guest: SavedGuest) -> None:
    path = write(tmp_path / "it.xhyve", on_lan(guest), tuple(guest.members()))
    with Bundle.open(path) as bundle:
        (lan,), (saved,) = bundle.lans, bundle.guests
        assert json.loads(json.dumps(lan.to_dict()))["links"][0]["impairment"]["latency"] == 0.1
        assert lan.links[0].impairment == Impairment(latency=0.1, loss=0.5)
        assert saved.place is not None
        assert saved.place.on(bundle.lans).cards[0].lan == "lan"
        assert saved.pulled_cables() == [0]
        assert saved.faults_of_lans() == [("LAN lan", "cut")]


@pytest.mark.parametrize(
    "lan",
    [
        {**LAN, "name": "../lan"},
        {**LAN, "name": 5},
        {**LAN, "links": 5},
        {"name": "lan"},
        *(
            {**LAN, "links": [{**LAN["links"][0], **change}]}  # type: ignore[dict-item]
            for change in (
                {"source": "a b"},
                {"blocked": 1},
                {"seed": 3},
                {"more": 1},
                {"impairment": {"loss": "much"}},
                {"impairment": {"loss": float("nan")}},
                {"impairment": {"latency": -1}},
                {"impairment": {"unknown": 1}},
                {"impairment": 5},
            )
        ),
    ],
)
def test_impossible_lan_is_refused(tmp_path: Path, guest: SavedGuest, lan: object) -> None:
    path = write(tmp_path / "it.xhyve", on_lan(guest, lan), tuple(guest.members()))
    with pytest.raises(BundleError, match="its description of a LAN is not valid"), Bundle.open(path):
        pass


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../web"},
        {"hosts": 5},
        {"hosts": "x" * (2 << 20)},
        {"cards": [{"lan": 0, "address": "here", "is_pulled": False}]},
        {"cards": [{"lan": -1, "address": "192.168.77.1/24", "is_pulled": False}]},
        {"cards": [{"lan": 1, "address": "192.168.77.1/24", "is_pulled": False}]},
        {"cards": [{"lan": True, "address": "192.168.77.1/24", "is_pulled": False}]},
        {"cards": [{"lan": 0, "address": "192.168.77.1/24", "is_pulled": "no"}]},
        {"cards": PLACE["cards"] * 2},  # type: ignore[operator]
    ],
)
def test_impossible_place_is_refused(tmp_path: Path, guest: SavedGuest, change: dict[str, Any]) -> None:
    path = write(tmp_path / "it.xhyve", on_lan(guest, place={**PLACE, **change}), tuple(guest.members()))
    with pytest.raises(BundleError, match="is damaged"), Bundle.open(path):
        pass


@pytest.mark.parametrize("content", [{}, {"failure": 1, "guests": []}, {"failure": {}, "guests": 3}])
def test_other_descriptions_are_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    with (
        pytest.raises(BundleError, match="its description is not valid"),
        Bundle.open(write(tmp_path / "it.xhyve", content, ())),
    ):
        pass
    with pytest.raises(BundleError, match="cannot read the bundle"), Bundle.open(tmp_path / "none.xhyve"):
        pass


def test_image_is_found_by_its_content(tmp_path: Path, image: SavedImage, home: Home) -> None:
    assert find_image(image, home, None).image.disk == tmp_path / "disk.raw"
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("it.yaml", "disk.raw", "vmlinuz", "key"):
        (tmp_path / name).rename(moved / name)
    with pytest.raises(ImageError, match=r"the image it of the saved guest is not here: .*\n.*copy .*it\.yaml"):
        find_image(image, home, None)
    found = find_image(image, home, moved / "it.yaml")
    assert (found.image.disk, found.kernel) == (moved / "disk.raw", moved / "vmlinuz")
    (moved / "disk.raw").write_bytes(b"x" * (1 << 16))
    with pytest.raises(ImageError, match=r"it\.yaml is not it"):
        find_image(image, home, moved / "it.yaml")


def test_other_key_is_named(tmp_path: Path, guest: SavedGuest, home: Home) -> None:
    resumption(guest, home).check_login()
    other = tmp_path / "other"
    other.write_bytes(KeyPair.generate().private)
    with pytest.raises(ConfigurationError, match=r"accepts the key SHA256:\S+ .*is SHA256:\S+\n.*--key FILE"):
        resumption(guest, home, other).check_login()


def test_reason_to_boot_is_found_before_the_start(guest: SavedGuest, home: Home) -> None:
    assert resumption(guest, home)._reason_to_boot == ""
    other = resumption(guest, home, hypervisor="qemu 9.1.0")
    assert not other.has_memory
    assert other._reason_to_boot == "it was saved with qemu 7.2.0, and this host has qemu 9.1.0"
    assert resumption(replace(guest, has_memory=False), home)._reason_to_boot.startswith("its memory was not")


@pytest.mark.parametrize("option", ["--xhyve-executable=/tmp/x", "-pevil", "--xhyve-images=x", 5])
def test_other_options_are_refused(tmp_path: Path, guest: SavedGuest, option: object) -> None:
    content = about(guest)
    content["failure"]["options"] = ["--xhyve-image=tiny", option]
    path = write(tmp_path / "it.xhyve", content, tuple(guest.members()))
    with pytest.raises(BundleError, match="its description is not valid"), Bundle.open(path):
        pass


@pytest.mark.parametrize("number", [-1, 1 << 40, float("inf"), float("nan"), "now", None])
def test_time_that_is_no_date(tmp_path: Path, guest: SavedGuest, number: object) -> None:
    content = about(guest)
    content["failure"]["time"] = number
    path = write(tmp_path / "it.xhyve", content, tuple(guest.members()))
    with pytest.raises(BundleError, match="its description is not valid"), Bundle.open(path):
        pass


def test_manifest_without_end_is_not_read(image: SavedImage, new_home: Home, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for place in ("/dev/zero", str(tmp_path / "fifo"), "/proc/self/mem", "/proc/kmsg", "/proc/kcore", "a\0b"):
        with pytest.raises(ImageError, match="is not here"):
            find_image(replace(image, manifest=place), new_home, None)


def test_kernel_without_end_is_not_read(image: SavedImage, new_home: Home, tmp_path: Path) -> None:
    """The kernel that the guest ran is not that of the image, and perhaps at its own path."""
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(1 << 42)
    for place in ("/proc/kcore", "/proc/kmsg", "/dev/zero", str(tmp_path / "endless")):
        with pytest.raises(ImageError, match="is not here"):
            find_image(replace(image, kernel=SavedFile(place, "0" * 64)), new_home, None)


@pytest.mark.parametrize(
    "change",
    [
        {"user": "root\n  ProxyCommand touch /tmp/x"},
        {"user": "root\r  ProxyCommand touch /tmp/x"},
        {"user": "a b"},
        {"user": "-oProxyCommand=x"},
        {"user": "%h"},
        {"user": ""},
        {"host_keys": ["* ssh-ed25519 x"]},
        {"host_keys": ["ssh-ed25519"]},
    ],
)
def test_user_and_host_keys_that_are_more_than_that(tmp_path: Path, guest: SavedGuest, change: dict[str, Any]) -> None:
    """OpenSSH runs programs that its configuration names."""
    content = about(guest)
    content["guests"][0]["image"] |= change
    path = write(tmp_path / "it.xhyve", content, tuple(guest.members()))
    with pytest.raises(BundleError, match="is damaged: its description of a guest is not valid"), Bundle.open(path):
        pass


def test_line_after_a_host_key_is_not_kept(tmp_path: Path, guest: SavedGuest) -> None:
    content = about(guest)
    image = content["guests"][0]["image"]
    image["host_keys"] = [f"{key} comment\n* {key}" for key in image["host_keys"]]
    with Bundle.open(write(tmp_path / "it.xhyve", content, tuple(guest.members()))) as bundle:
        assert bundle.guests[0].image.host_keys == guest.image.host_keys


@pytest.mark.usefixtures("_description")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_description(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each value of a bundle's description is another one, as its maker likes."""
    read: Any = json.loads((tmp_path_factory.getbasetemp() / "about.json").read_text())
    content = place = read["about"]
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            place[key] = data.draw(PLAIN)
            break
        place = place[key]
    path = write(tmp_path_factory.getbasetemp() / "any.xhyve", content, tuple(read["members"]))
    with contextlib.suppress(BundleError), Bundle.open(path) as bundle:
        for saved in bundle.guests:
            saved.machine()
