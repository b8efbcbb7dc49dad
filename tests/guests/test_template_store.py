"""Guests that are restored from a template: no guest writes to it, and it is built anew where it is no good."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from waiting import becomes
from warm import LOG, check_identity, fleet_of, is_warm, template_of, templates

from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host import digests
from pytest_xhyve.host.guest_folder import PIDFILE
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.model.architecture import X86_64
from pytest_xhyve.model.machine import Machine
from pytest_xhyve.model.spec import GuestSpec

MOST_LOOKS = 9


def own_folder(guest: Guest) -> Path:
    return guest.console.path.parent


def allocated(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def own_memory(guest: Guest) -> int:
    """What the guest costs the host: memory shared with others counts by its share (proc(5))."""
    pid = int((own_folder(guest) / PIDFILE).read_text())
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Pss:"))) << 10


def processes_of(home: Home) -> list[psutil.Process]:
    """All that name the folder and are not ours; the dead do not count."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.pid != os.getpid()
        and process.info["status"] != psutil.STATUS_ZOMBIE
        and any(str(home.path) in word for word in process.info["cmdline"] or [])
    ]


def test_known_digests_take_no_lock_and_few_looks(home: Home, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the image, its template and QEMU; `python -m benchmarks.own` measures what a warm guest costs."""
    with fleet_of(home, said) as fleet:
        fleet.start(ForegroundRequest(GuestSpec())).remove()
        looks: list[Path] = []
        remembered = digests.remembered_digest

        def look(path: Path, cache: Path) -> str | None:
            looks.append(path)
            return remembered(path, cache)

        def lock(path: Path, *_: object) -> None:
            pytest.fail(f"{path} was locked")

        monkeypatch.setattr(digests, "remembered_digest", look)
        monkeypatch.setattr(digests, "locked", lock)
        fleet.start(ForegroundRequest(GuestSpec())).remove()
    assert 0 < len(looks) <= MOST_LOOKS, looks


def test_what_one_writes_is_seen_in_no_other(home: Home, said: list[str]) -> None:
    with fleet_of(home, said) as fleet:
        first, second = fleet.start(ForegroundRequest(GuestSpec())), fleet.start(ForegroundRequest(GuestSpec()))
        folder = template_of(first)
        hashes = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()}
        # Far more than any cache has: into memory, and onto the disk.
        first.run("dd if=/dev/urandom of=/dev/shm/mine bs=1M count=40 2>/dev/null || mkdir -p /dev/shm")
        first.run("dd if=/dev/urandom of=/root/mine bs=1M count=40 2>/dev/null; echo mine >/etc/mine; sync")
        third = fleet.start(ForegroundRequest(GuestSpec()))
        for other in (second, third):
            other.run("echo 3 >/proc/sys/vm/drop_caches")
            assert other.run("ls /dev/shm/mine /root/mine /etc/mine", check=False).stdout == ""
        second.run("echo other >/etc/mine; sync")
        assert first.run("cat /etc/mine").stdout == "mine\n"
    assert hashes == {path.name: hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()}


def test_further_guests_cost_little(home: Home, said: list[str]) -> None:
    with fleet_of(home, said) as fleet:
        guests = [fleet.start(ForegroundRequest(GuestSpec())) for _ in range(4)]
        taken = [allocated(own_folder(guest)) for guest in guests]
        LOG.info("tiny: KiB of disk: %s", [size >> 10 for size in taken])
        LOG.info("tiny: MiB of memory (PSS): %s", [own_memory(guest) >> 20 for guest in guests])
    assert max(taken) <= 1 << 20


@pytest.mark.thorough
def test_a_damaged_one_is_built_again(template: Path, other_home: Home, said: list[str]) -> None:
    """Other damages, and those of the other files, are in tests/unit/templates/test_store.py."""
    copied = other_home.folder("templates") / template.name
    shutil.copytree(template, copied)
    os.truncate(copied / "ram", (copied / "ram").stat().st_size - 4096)
    with fleet_of(other_home, said, start="auto") as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec()))
        assert is_warm(guest)
        guest.run("true")
    (line,) = [line for line in said if "must be built again" in line]
    assert "ram" in line
    assert len(templates(other_home)) == 1


@pytest.mark.thorough
def test_one_of_another_qemu_is_not_used(template: Path, other_home: Home, said: list[str], tmp_path: Path) -> None:
    copied = other_home.folder("templates") / template.name
    shutil.copytree(template, copied)
    with fleet_of(other_home, said) as fleet:
        assert template_of(fleet.start(ForegroundRequest(GuestSpec()))) == copied
    wrapper = tmp_path / "qemu"
    wrapper.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && { echo "QEMU emulator version 99.0.0"; exit; }\n'
        f'exec {shutil.which(X86_64.program)} "$@"\n'
    )
    wrapper.chmod(0o700)
    with fleet_of(other_home, said, executable=wrapper) as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec()))
        assert is_warm(guest)
        assert template_of(guest) != copied
    assert len(templates(other_home)) == 2


@pytest.mark.thorough
def test_a_killed_maker_leaves_nothing_that_is_used(other_home: Home, said: list[str]) -> None:
    lefts = [kill_maker(other_home, stage) for stage in ("ram", "state")]
    # The second maker has removed what the first left.
    assert [left.exists() for left in lefts] == [False, True]
    with fleet_of(other_home, said) as fleet:
        assert is_warm(fleet.start(ForegroundRequest(GuestSpec())))
        assert not lefts[1].exists()


def kill_maker(other_home: Home, stage: str) -> Path:
    """Kill a run that makes a template as soon as it writes the file of *stage*, and return what is left of that."""
    code = (
        "from pytest_xhyve.fleet.fleet import Fleet\n"
        "from pytest_xhyve.fleet.request import ForegroundRequest\n"
        "from pytest_xhyve.host.home import Home\n"
        "from pytest_xhyve.model.settings import Settings\n"
        "from pytest_xhyve.model.spec import GuestSpec\n"
        "settings = Settings(hypervisor='qemu', start='warm', images=('tiny',))\n"
        "Fleet(settings, Home.of_user()).start(ForegroundRequest(GuestSpec()))\n"
    )
    folder = other_home.folder("templates")
    before = set(folder.glob(".*"))
    maker = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {HOME_VARIABLE: str(other_home.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert becomes(lambda: any(path.parent not in before for path in folder.glob(f".*/{stage}")), 60)
    finally:
        os.kill(maker.pid, signal.SIGKILL)
        maker.wait()
    assert becomes(lambda: not processes_of(other_home), 10), processes_of(other_home)
    assert templates(other_home) == []
    (left,) = folder.glob(".*")
    return left


@pytest.mark.thorough
def test_one_that_changes_memory_gets_a_template_for_it(home: Home, said: list[str]) -> None:
    # So much that a part of it lies behind the hole for devices.
    def change(machine: Machine) -> Machine:
        return replace(machine, memory=3 << 30)

    with fleet_of(home, said) as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec(), hook=change))
        assert is_warm(guest)
        assert int(guest.run("awk '/MemTotal/ {print $2}' /proc/meminfo").stdout) > 2800 << 10
        check_identity(guest)
