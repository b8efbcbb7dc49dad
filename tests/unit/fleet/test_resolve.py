"""What a guest is made of: its spec comes first, then the options, then the image."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from fake_images import write_image
from hypothesis import given
from hypothesis import strategies as st
from strategies import lines

from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.resolve import SpecResolver, to_host_name
from pytest_xhyve.fleet.weight import weigh_guest
from pytest_xhyve.guest.lans import NO_LANS
from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.base import Identity
from pytest_xhyve.hypervisors.qemu.driver import Qemu
from pytest_xhyve.model.machine import Machine
from pytest_xhyve.model.settings import MAX_GUESTS, Settings
from pytest_xhyve.model.spec import GuestSpec

MIB = 1 << 20
IDENTITY = Identity(UUID(int=7), "52:54:00:00:00:07")


@given(st.text() | lines, st.integers(0, MAX_GUESTS - 1))
def test_any_name_of_an_image_gives_guests_a_name(image: str, slot: int) -> None:
    name = f"{to_host_name(image)}-{slot}"
    assert GuestSpec.parse(name=name).name == name


def resolver(home: Home, manifest: Path, **options: object) -> SpecResolver:
    # It starts no guest, so any program serves.
    qemu = Qemu(executable="/bin/true", accel="tcg", cache=home.path)
    return Fleet(Settings(images=(str(manifest),), **options), home, hypervisor=qemu).resolver  # type: ignore[arg-type]


def machine_of(found: SpecResolver, **spec: object) -> Machine:
    return found.machine(found.resolve(GuestSpec.parse(**spec)), IDENTITY, "guest-0", NO_LANS)


def test_the_spec_comes_before_the_options_and_they_before_the_image(new_home: Home, tmp_path: Path) -> None:
    manifest = write_image(tmp_path, cpus=2, memory="300M")
    of_image = machine_of(resolver(new_home, manifest))
    assert (of_image.cpus, of_image.memory) == (2, 300 * MIB)
    found = resolver(new_home, manifest, cpus=3, memory=400 * MIB)
    of_options = machine_of(found)
    assert (of_options.cpus, of_options.memory) == (3, 400 * MIB)
    of_spec = machine_of(found, cpus=4, memory="500M")
    assert (of_spec.cpus, of_spec.memory) == (4, 500 * MIB)


def test_a_guest_has_a_screen_only_if_a_boot_loader_needs_it(new_home: Home, tmp_path: Path) -> None:
    found = resolver(new_home, write_image(tmp_path))
    assert not machine_of(found).graphics
    assert machine_of(found, firmware="bios").graphics


@pytest.mark.parametrize(
    ("option", "spec", "restored"), [("auto", None, True), ("cold", "warm", True), ("warm", "cold", False)]
)
def test_weight_and_start_agree(new_home: Home, tmp_path: Path, option: str, spec: str | None, restored: bool) -> None:
    found = resolver(new_home, write_image(tmp_path, memory="1G"), start=option)
    wanted = GuestSpec.parse(start=spec)
    resolved = found.resolve(wanted)
    assert resolved.is_restored == restored
    assert found.weigh(wanted, resolved.image) == weigh_guest(1024 * MIB, restored=restored)


def test_a_guest_whose_image_is_not_known_yet_weighs_the_default(new_home: Home, tmp_path: Path) -> None:
    found = resolver(new_home, write_image(tmp_path, memory="1G"))
    assert found.weigh(GuestSpec()) == weigh_guest(512 * MIB, restored=True)
    found.resolve(GuestSpec())
    assert found.weigh(GuestSpec()) == weigh_guest(1024 * MIB, restored=True)
