"""Files out of a guest and into it, against tar over ssh by hand; and a reboot against a boot.

Run it as ``python -m benchmarks.copies``. What is compared runs in turn, so that both find the host equally busy. Ends
with status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks import product
from benchmarks.measure import Clock, Summary
from benchmarks.promise import Promise, at_most, show
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.model.spec import GuestSpec

_IMAGE = "debian12"
_FILES = 5000
_MAKE_FILES = f"mkdir /root/small; cd /root/small; for n in $(seq {_FILES}); do echo text $n > file$n; done"
# One file of 1 GiB with 1 MiB of data at its start, in the middle and at its end.
_MAKE_SPARSE = (
    "mkdir /root/sparse; cd /root/sparse; truncate -s 1G file; "
    "for at in 0 512 1023; do dd if=/dev/urandom of=file bs=1M count=1 seek=$at conv=notrunc 2> /dev/null; done"
)


def main() -> int:
    """Measure, print, and return whether all targets are met, as an exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    promises = []
    with product.fleet_of("auto", "cold") as fleet, tempfile.TemporaryDirectory() as folder:
        spec = GuestSpec(image=_IMAGE)
        clock = Clock()
        guest = fleet.start(ForegroundRequest(spec))
        boots = [clock.lap()]
        guest.run(f"{_MAKE_FILES}; {_MAKE_SPARSE}", timeout=120)
        for name in ("small", "sparse"):
            promises += _copy(guest, name, Path(folder), rounds)
        reboots = []
        for _ in range(rounds):
            clock.lap()
            fleet.start(ForegroundRequest(spec)).remove()
            boots.append(clock.lap())
            # The second follows at once: its boot before may have jobs left.
            for _ in range(2):
                guest.reboot()
                reboots.append(clock.lap())
        boot, reboot = Summary.of(boots), Summary.of(reboots)
        print(f"boot {boot.median:.2f} s, reboot {reboot.median:.2f} s, the slowest {reboot.worst:.2f} s")
        promises.append(at_most("a reboot against a cold boot", reboot.median / boot.median, 1.5, "x"))
    print(show(promises))
    return 0 if all(promise.is_met for promise in promises) else 1


def _copy(guest: Guest, name: str, folder: Path, rounds: int) -> list[Promise]:
    """Copy the guest's folder *name* out and back in, in both ways."""
    ssh = guest.ssh_command()
    remote = f"/root/{name}"

    def get_by_hand(target: Path) -> None:
        target.mkdir()
        with subprocess.Popen([*ssh, f"tar -C {remote} -cSf - ."], stdout=subprocess.PIPE) as sender:
            subprocess.run(["tar", "-C", str(target), "-xf", "-"], stdin=sender.stdout, check=True)

    def put_by_hand(source: Path) -> None:
        with subprocess.Popen(["tar", "-C", str(source), "-cSf", "-", "."], stdout=subprocess.PIPE) as sender:
            command = [*ssh, f"mkdir {remote}-by-hand && tar -C {remote}-by-hand -xf -"]
            subprocess.run(command, stdin=sender.stdout, check=True)

    seconds: dict[str, list[float]] = {}
    for number in range(rounds):
        by_hand, by_guest = folder / f"{name}-{number}-by-hand", folder / f"{name}-{number}"
        steps: Mapping[str, Callable[[], object]] = {
            "get by hand": partial(get_by_hand, by_hand),
            "get": partial(guest.get, remote, by_guest),
            "put by hand": partial(put_by_hand, by_hand),
            "put": partial(guest.put, by_guest, f"{remote}-by-guest"),
        }
        for step, run in steps.items():
            clock = Clock()
            run()
            seconds.setdefault(step, []).append(clock.lap())
        used = sum(file.stat().st_blocks * 512 for file in by_guest.iterdir())
        # Each small file takes a block of 4 KiB.
        assert used < 32 << 20, f"{used} bytes on the disk: the holes are filled"
        kib = int(guest.run(f"du -sk {remote}-by-guest").stdout.split()[0])
        assert kib < 32 << 10, f"{kib} KiB on the guest's disk: the holes are filled"
        guest.run(f"rm -r {remote}-by-hand {remote}-by-guest")
    found = {step: Summary.of(values).median for step, values in seconds.items()}
    print(f"{name}: " + ", ".join(f"{step} {value:.2f} s" for step, value in found.items()))
    return [
        at_most(f"{step} of {name} against tar over ssh", found[step] / found[f"{step} by hand"], 1.2, "x")
        for step in ("get", "put")
    ]


if __name__ == "__main__":
    sys.exit(main())
