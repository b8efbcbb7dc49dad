"""Soak: run tests on several workers while guests, switches, guardians and workers are killed and stopped at random.

    PYTHONPATH=.:tests python -m soak SECONDS [WORKERS [TESTS [SEED]]]

After each run it checks the promises of the README: the image is as it was, no process is left, a slot has the same
UUID and Ethernet address as ever, and no two guests had one identity at the same time, or the same random numbers.
Clusters with the same addresses run at the same time: no guest got what one of another cluster sent.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from homes import share

from pytest_xhyve.fleet.slots import Slots
from pytest_xhyve.host.digests import digest_of
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.host.runs import reap
from pytest_xhyve.images.manifest import read_manifest
from soak.chaos import Chaos, wait_until_gone
from soak.tests import TEST

_RUN_SECONDS = 600.0
_END_SECONDS = 20.0
_OUTCOMES = re.compile(r"(\d+) (passed|failed|errors?)")


class Soak:
    """One soak.

    Args:
        home: a cache folder that only the soak uses.
        workers: xdist's workers of a run.
        tests: the tests of a run.
    """

    def __init__(self, home: Home, workers: int, tests: int) -> None:
        self._home = home
        self._workers = workers
        self._tests = tests
        self._disk = read_manifest(home.path / "images" / "tiny.yaml").disk
        self._digest = digest_of(self._disk)
        self._slots: dict[str, tuple[str, str]] = {}
        self._numbers: set[str] = set()
        self.figures: Counter[str] = Counter()
        self.broken: list[str] = []

    def run(self, folder: Path, seed: int) -> None:
        """Run the tests once in *folder*, and check the promises."""
        (folder / "test_soak.py").write_text(TEST)
        log = folder / "log"
        log.touch()
        environment = {
            **os.environ,
            HOME_VARIABLE: str(self._home.path),
            "SOAK_LOG": str(log),
            "SOAK_TESTS": str(self._tests),
        }
        argv = [sys.executable, "-m", "pytest", "-q", "-n", str(self._workers), "--max-worker-restart=1000"]
        argv += ["-p", "no:cacheprovider", "--xhyve-image=tiny", "--xhyve-hypervisor=qemu", "test_soak.py"]
        with (folder / "output").open("wb") as output:
            process = psutil.Popen(argv, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
            chaos = Chaos(process, self._home.path, seed)
            try:
                process.wait(_RUN_SECONDS)
            except psutil.TimeoutExpired:
                self.broken.append(f"a run did not end within {_RUN_SECONDS:g} s (seed {seed})")
                process.kill()
                process.wait()
            finally:
                chaos.end()
        self.figures["runs"] += 1
        self.figures.update(chaos.signals)
        text = (folder / "output").read_text(errors="replace")
        outcomes = {name.rstrip("s"): int(number) for number, name in _OUTCOMES.findall(text.splitlines()[-1])}
        self.figures.update({f"tests {name}": number for name, number in outcomes.items()})
        if sum(outcomes.values()) < self._tests:
            self.broken.append(f"{outcomes} of {self._tests} tests have a result (seed {seed}):\n{text[-2000:]}")
        left = wait_until_gone(self._home.path, _END_SECONDS)
        if left:
            self.broken.append(f"left behind (seed {seed}): {', '.join(left)}")
        self._check_identities([json.loads(line) for line in log.read_text().splitlines()])

    def finish(self) -> None:
        """Check what holds at the end: nothing is left, and the image is as it was."""
        runs = self._home.folder("runs")
        # If pytest and its guardian are killed together, the folder stays until the next run.
        reap(runs)
        self.broken += [f"left behind: {path}" for path in runs.iterdir()]
        held = Slots(self._home.folder("slots"), 8, 0).held()
        self.broken += [f"slot {slot.number} is still held by {slot.holder}" for slot in held]
        if digest_of(self._disk) != self._digest:
            self.broken.append(f"{self._disk} was changed")

    def _check_identities(self, events: list[dict[str, Any]]) -> None:
        owners: dict[str, str] = {}
        for event in events:
            slot, uuid = event["slot"], event["uuid"]
            if event["event"] == "received":
                self.figures["messages on LANs"] += 1
                # A peer that is killed may send nothing.
                if event["text"] not in ("", event["sent"]):
                    self.broken.append(f"{slot} received {event['text']!r}, and its peer sent {event['sent']!r}")
                continue
            if event["event"] == "end":
                # A test that was killed has no end.
                if owners.get(uuid) != event["test"]:
                    self.broken.append(f"{slot} was two guests at the same time")
                continue
            owners[uuid] = event["test"]
            self.figures["guests"] += 1
            if self._slots.setdefault(slot, (uuid, event["mac"])) != (uuid, event["mac"]):
                self.broken.append(f"{slot} was {self._slots[slot]}, and is {uuid}, {event['mac']}")
            if event["random"] in self._numbers:
                self.broken.append(f"{slot} got random numbers that another guest had")
            self._numbers.add(event["random"])
        slots = Counter(uuid for uuid, _ in self._slots.values())
        self.broken += [f"{uuid} belongs to {count} slots" for uuid, count in slots.items() if count > 1]


def main(arguments: list[str]) -> int:
    seconds, workers, tests, seed = (
        int(value) for value in (arguments + ["600", "2", "30", str(random.randrange(1 << 16))][len(arguments) :])
    )
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        soak = Soak(share(Home.of_user(), Path(place, "home")), workers, tests)
        print(f"seed {seed}", flush=True)
        while time.monotonic() < end and not soak.broken:
            folder = Path(place, f"run-{seed}")
            folder.mkdir()
            soak.run(folder, seed)
            print(dict(soak.figures), flush=True)
            seed += 1
        soak.finish()
    for name, number in sorted(soak.figures.items()):
        print(f"{name:20} {number}")
    print("\n".join(soak.broken) or "each promise was kept")
    return bool(soak.broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
