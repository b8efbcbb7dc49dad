"""Two hundred guests started in parallel: the kernel gives each its port, so that none is ever taken twice."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from uuid import UUID

import pytest

from pytest_xhyve.host import runs
from pytest_xhyve.host.guardian import Guardian
from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.qemu.driver import Qemu
from pytest_xhyve.images.build import build_image
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk, Machine, Nic

GUESTS = 200


@pytest.fixture(scope="module")
def tiny() -> Image:
    return build_image("tiny", Home.of_user(), print)


@pytest.fixture
def guardian(tmp_path: Path) -> Iterator[tuple[Guardian, Path]]:
    with runs.new_run(tmp_path) as (folder, lock):
        guardian = Guardian(folder, lock)
        yield guardian, folder
        guardian.close()


@pytest.mark.thorough
def test_two_hundred_at_once(tiny: Image, tmp_path: Path, guardian: tuple[Guardian, Path]) -> None:
    keeper, folder = guardian
    qemu = Qemu(executable=None, accel="tcg", cache=tmp_path)
    assert qemu.info.emulated
    with ExitStack() as stack:
        lock = Lock()

        def start(number: int) -> int:
            # They need not boot: a moment after the start is when a port could be taken.
            guarded = keeper.guard(folder / f"g{number}", [], {})
            with lock:
                process = stack.enter_context(guarded)
            disk = process.folder / "disk.raw"
            disk.touch()
            machine = Machine(
                name=f"g{number}",
                uuid=UUID(int=number),
                cpus=1,
                cpu="x86-64-v2",
                memory=32 << 20,
                disks=(Disk(disk),),
                nics=(Nic(f"52:54:00:00:00:{number:02x}"),),
                kernel=tiny.kernel,
                initrd=None,
                cmdline="panic=0",
            )
            running = qemu.running(machine, process)
            vm = running.__enter__()
            with lock:
                stack.push(running)
            vm.pause()
            endpoint = vm.find_endpoint(22)
            assert endpoint is not None
            return endpoint.port

        with ThreadPoolExecutor(16) as pool:
            ports = list(pool.map(start, range(GUESTS)))
    assert len(set(ports)) == GUESTS
