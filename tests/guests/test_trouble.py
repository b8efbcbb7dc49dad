"""Guests that do not come up: each fails in seconds, and says why."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from chosen import Chosen

from pytest_xhyve import (
    BootTimeout,
    Guest,
    GuestFactory,
    HypervisorExited,
    ImageError,
    KernelPanic,
    LeaseNotFound,
    NoFreeSlot,
)
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

pytest_plugins = ["pytester"]

pytestmark = pytest.mark.xhyve(image="tiny")


@pytest.fixture(scope="module")
def tiny() -> Path:
    """The manifest of `tiny`."""
    from pytest_xhyve.images.build import build_image

    return build_image("tiny", Home.of_user(), print).manifest


def changed(tiny: Path, folder: Path, **changes: Any) -> Path:
    """A manifest in *folder* of the same image, with some keys changed."""
    content = yaml.safe_load(tiny.read_text())
    for key in ("disk", "kernel", "initrd", "key"):
        content[key] = str((tiny.parent / content[key]).resolve())
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    manifest = folder / "changed.yaml"
    manifest.write_text(yaml.safe_dump(content))
    return manifest


def cmdline(tiny: Path, word: str) -> str:
    return f"{read_manifest(tiny).cmdline} {word}"


@pytest.mark.thorough
@pytest.mark.run_under("warm", "xhyve")
def test_panic_ends_the_waiting(xhyve_guest_factory: GuestFactory, tiny: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    manifest = changed(tiny, tmp_path, cmdline=cmdline(tiny, "root=/dev/vdz rootwait=1"))
    with pytest.raises(KernelPanic, match="Kernel panic - not syncing: Attempted to kill init") as raised:
        xhyve_guest_factory(image=manifest)
    assert time.monotonic() - start < 30
    assert "no root file system: /dev/vdz did not appear" in str(raised.value)


@pytest.mark.run_under("qemu", "xhyve")
def test_missing_init_is_a_panic(xhyve_guest_factory: GuestFactory, tiny: Path, tmp_path: Path) -> None:
    manifest = changed(tiny, tmp_path, cmdline=cmdline(tiny, "init=/no/init"))
    with pytest.raises(KernelPanic, match=r"has no /no/init"):
        xhyve_guest_factory(image=manifest)


@pytest.mark.run_under("warm")
def test_panic_that_a_program_writes_during_a_boot_is_none(xhyve_guest: Guest) -> None:
    """As one that prints the log of the boot before; the guest has no connection yet over which it could answer."""
    line = "Kernel panic - not syncing: the last time"
    xhyve_guest.run(f'sed -i \'2i echo "{line}" >/dev/console; sleep 1; echo "went on" >/dev/console\' /etc/init.d/rcS')
    xhyve_guest.run("sync")
    xhyve_guest.kill()
    xhyve_guest.start()
    assert xhyve_guest.run("echo well").stdout == "well\n"
    assert line in xhyve_guest.console.text


@pytest.mark.thorough_under("xhyve")
@pytest.mark.run_under("warm", "xhyve")
def test_panic_during_a_command(xhyve_guest: Guest) -> None:
    start = time.monotonic()
    with pytest.raises(KernelPanic, match="sysrq triggered crash"):
        xhyve_guest.run("echo c > /proc/sysrq-trigger; sleep 100")
    assert time.monotonic() - start < 20
    # It is told again, whatever is asked of the guest.
    for again in (lambda: xhyve_guest.run("true"), lambda: xhyve_guest.get("/etc/hosts", "hosts")):
        with pytest.raises(KernelPanic, match="sysrq triggered crash"):
            again()
    # The power button still works.
    xhyve_guest.kill()
    xhyve_guest.start()
    assert xhyve_guest.run("echo well").stdout == "well\n"


@pytest.mark.run_under("warm", "xhyve")
def test_hypervisor_that_is_killed(xhyve_guest: Guest) -> None:
    import psutil

    from pytest_xhyve.host.runs import live_guests

    (record,) = [guest for guest in live_guests(Home.of_user().folder("runs")) if guest.uuid == xhyve_guest.uuid]
    psutil.Process(record.pid).kill()
    with pytest.raises(HypervisorExited, match="ended with exit code -9"):
        xhyve_guest.run("sleep 100")


def test_time_is_up(tiny: Path, hypervisor: Chosen) -> None:
    fleet = Fleet(hypervisor.settings(Settings(boot_timeout=0.25)), Home.of_user())
    try:
        # Where the guest has an address of its own, it may not have it yet.
        with pytest.raises((BootTimeout, LeaseNotFound), match=r"tiny .* (1|0\.25) s[\s\S]*--xhyve-boot-timeout"):
            fleet.start(ForegroundRequest(GuestSpec(image=tiny, start="cold")))
    finally:
        fleet.close()


@pytest.mark.run_under("warm")
def test_limit_of_another_plugin_shows_the_console(
    pytester: pytest.Pytester, hypervisor: Chosen, tiny: Path, tmp_path: Path
) -> None:
    """The error of pytest-timeout knows nothing of the guest that the test has waited for."""
    silent = changed(tiny, tmp_path, cmdline=cmdline(tiny, "init=/bin/cat"))
    pytester.makepyfile("def test_it(xhyve_guest): pass")
    words = [*hypervisor.options, "--xhyve-start=cold", f"--xhyve-image={silent}", "--timeout=6"]
    result = pytester.runpytest_subprocess(*words)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "E *Timeout (>6.0s) from pytest-timeout.",
            "E *guest tiny-* was starting meanwhile",
            "E *it got as far as: *(firmware * s · kernel * s*)",
            "E *last on the console:",
            "E *[[]*[]] *",
        ]
    )


@pytest.mark.thorough
@pytest.mark.run_under("warm")
def test_altered_disk_does_not_boot(xhyve_guest_factory: GuestFactory, tiny: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    shutil.copyfile(read_manifest(tiny).disk, disk)
    manifest = changed(tiny, tmp_path, disk=str(disk))
    with disk.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"altered")
    with pytest.raises(ImageError, match="was altered"):
        xhyve_guest_factory(image=manifest)
    with disk.open("r+b") as file:
        file.truncate(1 << 20)
    with pytest.raises(ImageError, match="was truncated"):
        xhyve_guest_factory(image=manifest)


@pytest.mark.run_under("warm")
def test_no_more_guests_than_may_be(tiny: Path, home: Home, hypervisor: Chosen) -> None:
    fleet = Fleet(hypervisor.settings(Settings(max_guests=1)), home)
    try:
        with fleet.start(ForegroundRequest(GuestSpec(image=tiny))):
            start = time.monotonic()
            with pytest.raises(NoFreeSlot, match="no free slot: the limit of running guests is 1"):
                fleet.start(ForegroundRequest(GuestSpec(image=tiny)))
            # Nobody else could make room.
            assert time.monotonic() - start < 5
    finally:
        fleet.close()
