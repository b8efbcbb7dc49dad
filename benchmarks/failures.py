"""What it costs to save the guests of a failed test, to resume them, and to write the page of a run.

Run it as ``python -m benchmarks.failures``. What is compared runs in turn, so that both find the host equally busy. It
ends with status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import product, suite
from benchmarks.measure import Clock, Summary
from benchmarks.promise import Promise, at_most, show
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.failure import Failure
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.values import FAILURES_LIMIT
from pytest_xhyve.report.failures import FailuresFolder

_SAVING_SECONDS = {"tiny": 1.0, "debian12": 2.0}
_SHARE_OF_MEMORY = 30.0
_RESUME = 1.3
_SHARE_OF_RUN = 1.0

# Adds up what the calls of the report's classes take, each from its outermost call to its end.
_CONFTEST = """\
import json, pathlib, sys, time

spent = 0.0
inside = False

def timed(call):
    def wrapper(*args, **keys):
        global spent, inside
        if inside:
            return call(*args, **keys)
        inside = True
        begin = time.perf_counter()
        try:
            return call(*args, **keys)
        finally:
            spent += time.perf_counter() - begin
            inside = False
    return wrapper

begin = time.perf_counter()
if any(word.startswith("--xhyve-report") for word in sys.argv):
    from pytest_xhyve.plugin import html_report, page_extras
    spent += time.perf_counter() - begin
    writer, extras = html_report.PageWriter, page_extras.PageExtras
    for kind, names in ((writer, ("_write", "_write_sometimes")), (extras, ("removed", "attach"))):
        for name in names:
            setattr(kind, name, timed(getattr(kind, name)))
    html_report.RunData.begin_test = timed(html_report.RunData.begin_test)
    html_report.RunData.add_step = timed(html_report.RunData.add_step)

def pytest_unconfigure():
    whole = time.perf_counter() - begin
    found = [name for name in sys.modules if name in OF_REPORT]
    pathlib.Path("found.json").write_text(json.dumps({"spent": spent, "whole": whole, "modules": found}))

OF_REPORT = {
    "jinja2", "markupsafe", "zstandard", "pytest_xhyve.report.html", "pytest_xhyve.report.run_data",
    "pytest_xhyve.report.failures", "pytest_xhyve.plugin.html_report", "pytest_xhyve.plugin.page_extras",
    "pytest_xhyve.plugin.failed_guests", "pytest_xhyve.plugin.saving", "pytest_xhyve.templates.saving",
    "pytest_xhyve.formats.bundle_file", "pytest_xhyve.fleet.resuming",
}
"""


def main() -> int:
    """Measure, print, and return whether all targets are met, as an exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failures", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="guests of each kind (default: 5)")
    parser.add_argument("--tests", type=int, default=200, help="tests of the run with a page; 0: none (default: 200)")
    parser.add_argument("--images", nargs="*", default=["tiny", "debian12"], help="default: tiny debian12")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start")
    promises: list[Promise] = []
    with tempfile.TemporaryDirectory() as folder:
        for image in options.images:
            bundle, found = _save(image, Path(folder), options.rounds)
            promises += found
            promises.append(_resume(image, bundle, options.rounds))
    alone = _run(1)
    promises.append(at_most("modules of all this, if not asked for", len(alone["modules"]), 0, "", 0))
    if options.tests:
        whole = _run(options.tests, "--xhyve-report=page.html")
        print(f"page of {options.tests} tests: {whole['spent']:.2f} s of {whole['whole']:.1f} s")
        share = 100 * whole["spent"] / whole["whole"]
        promises.append(at_most(f"the page's share of a run of {options.tests} warm tests", share, _SHARE_OF_RUN, "%"))
    print(show(promises))
    return 0 if all(promise.is_met for promise in promises) else 1


def _save(image: str, folder: Path, rounds: int) -> tuple[Path, list[Promise]]:
    """Save guests of *image*, and remove as many without saving them; return a bundle of one that still runs."""
    bundles = FailuresFolder(folder / "failures", FAILURES_LIMIT, Home.of_user().folder("checked"))
    failure = Failure(f"test_{image}.py::test_it", "call", "an error", "", time.time(), "run", (), {})
    seconds: dict[bool, list[float]] = {True: [], False: []}
    shares = []
    path = Path()
    with product.fleet_of("auto", "warm", 2) as fleet:
        for _ in range(rounds + 1):
            for is_saved, ends in seconds.items():
                guest = fleet.start(ForegroundRequest(GuestSpec(image=image)))
                guest.run("echo ready")
                clock = Clock()
                if is_saved:
                    saved = bundles.save(failure, [guest])
                    assert saved is not None
                    path = Path(saved.path)
                    shares.append(100 * saved.size / guest.image.memory)
                guest.remove()
                ends.append(clock.lap())
    # The first one imports what the next ones use.
    print(f"{image}: the first that is saved {seconds[True][0]:.2f} s")
    saving, removing = (Summary.of(ends[1:]) for ends in (seconds[True], seconds[False]))
    print(f"{image}: saved and removed {saving.median:.2f} s, removed {removing.median:.2f} s")
    added = saving.median - removing.median
    return path, [
        at_most(f"{image}: saving, more than teardown", added, _SAVING_SECONDS[image], "s"),
        at_most(f"{image}: bundle, of the guest's memory", max(shares), _SHARE_OF_MEMORY, "%", 1),
    ]


def _resume(image: str, bundle: Path, rounds: int) -> Promise:
    """From the command line to the first output, of a guest that is resumed and of one that is restored."""
    ways = {
        "resume": ["resume", str(bundle)],
        "run": ["run", "--start=warm", "--hypervisor=qemu", image],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, words in ways.items():
            seconds[name].append(_first_output([*words, "--", "echo", "ready"]))
    resumed, started = (Summary.of(seconds[name]).median for name in ways)
    print(f"{image}: resume {resumed:.2f} s, run {started:.2f} s")
    return at_most(f"{image}: resume to a prompt, against a warm start", resumed / started, _RESUME, "x")


def _first_output(arguments: Sequence[str]) -> float:
    command = [sys.executable, "-m", "pytest_xhyve.cli", *arguments]
    clock = Clock()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = clock.lap()
        process.communicate(timeout=60)
    assert line == "ready\n", line
    return seconds


def _run(tests: int, *options: str) -> Mapping[str, Any]:
    """Run *tests* tests, each with a warm guest of its own, and return what the run's conftest.py has found."""
    with tempfile.TemporaryDirectory(prefix="failures-") as name:
        folder = Path(name)
        (folder / "conftest.py").write_text(_CONFTEST)
        suite.run_in(folder, "tiny", "warm", tests, "-p", "no:html", "-p", "no:allure_pytest", *options)
        found: Mapping[str, Any] = json.loads((folder / "found.json").read_text())
        return found


if __name__ == "__main__":
    sys.exit(main())
