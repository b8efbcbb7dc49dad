"""What it costs a run of pytest that the plugin is installed, when no test asks for a guest."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path

from benchmarks.measure import Clock

HEAVY = ("paramiko", "yaml", "tenacity", "filelock", "psutil")
_PLUGIN = "pytest_xhyve.plugin"
_EMPTY = "empty_plugin"
# Other plugins that are installed here import much of what ours might, and take longer than all that is measured.
_OTHERS = tuple(
    word
    for name in sorted({entry.name for entry in entry_points(group="pytest11")} - {"xhyve"})
    for word in ("-p", f"no:{name}")
)
# Asked once for its version, pytest 9 answers before it loads any plugin; asked twice, it loads them all.
_COMMANDS = {"pytest --version --version": ("--version", "--version"), "one test, no guest": ("-q", "test_trivial.py")}
_TEST = "def test_trivial():\n    pass\n"
_CONFTEST = f"""\
import json, pathlib, sys
def pytest_unconfigure():
    names = [name for name in {(*HEAVY, _PLUGIN)!r} if name in sys.modules]
    pathlib.Path("modules.json").write_text(json.dumps(names))
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two ways to run pytest, one with the plugin and one without, all else the same.

    Attributes:
        name: what the difference is.
        present: arguments with which the plugin is there.
        absent: arguments with which it is not.
        autoload: whether other plugins are loaded by their entry points.
    """

    name: str
    present: tuple[str, ...]
    absent: tuple[str, ...]
    autoload: bool


PAIRS = (
    # A blocked name is passed over before its entry point is imported (pluggy's load_setuptools_entrypoints).
    Pair("by its entry point, or -p no:xhyve", _OTHERS, (*_OTHERS, "-p", "no:xhyve"), autoload=True),
    # Here no other plugin has imported what ours needs as well. For any -p, pytest 9.2 reads the metadata of all
    # packages that are installed, so both have one.
    Pair("no autoload, by -p, or -p of an empty module", ("-p", _PLUGIN), ("-p", _EMPTY), autoload=False),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of pytest, in seconds: by the clock, and of the CPU, which leaves out waiting for one."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Cost:
    """The runs of one command: the n-th run with the plugin is next to the n-th without it."""

    command: str
    pair: str
    present: list[Run] = field(default_factory=list)
    absent: list[Run] = field(default_factory=list)

    @property
    def differences(self) -> list[Run]:
        return [
            Run(one.wall - other.wall, one.cpu - other.cpu)
            for one, other in zip(self.present, self.absent, strict=True)
        ]

    @property
    def added(self) -> float:
        """What the plugin adds, in seconds of CPU: best against best, as what disturbs a run only makes it longer."""
        return min(run.cpu for run in self.present) - min(run.cpu for run in self.absent)


def measure(rounds: int) -> list[Cost]:
    """Run all commands in all ways in turn, *rounds* times, after one turn that fills the caches."""
    costs = [(Cost(command, pair.name), pair) for command in _COMMANDS for pair in PAIRS]
    with _suite() as folder:
        for turn in range(rounds + 1):
            for cost, pair in costs:
                ways = [(cost.present, pair.present), (cost.absent, pair.absent)]
                # Whichever is second finds warmer caches, so they take turns.
                for runs, way in ways if turn % 2 else reversed(ways):
                    took = _run_pytest(folder, (*way, *_COMMANDS[cost.command]), autoload=pair.autoload)
                    if turn:
                        runs.append(took)
    return [cost for cost, _ in costs]


def imported_modules() -> Mapping[str, list[str]]:
    """What of `HEAVY`, and whether the plugin, was imported at the end of a run, for each way to run it."""
    found = {}
    with _suite() as folder:
        (folder / "conftest.py").write_text(_CONFTEST)
        for pair in PAIRS:
            for with_it, way in (("with", pair.present), ("without", pair.absent)):
                _run_pytest(folder, (*way, "-q", "test_trivial.py"), autoload=pair.autoload)
                found[f"{pair.name} ({with_it})"] = json.loads((folder / "modules.json").read_text())
    for name, modules in found.items():
        assert (_PLUGIN in modules) == name.endswith("(with)"), (name, modules)
    return {name: [module for module in modules if module != _PLUGIN] for name, modules in found.items()}


def measure_many(tests: int, rounds: int) -> float:
    """The seconds of CPU that the plugin adds to each of *tests* tests without a guest: best run against best run."""
    cost = Cost(f"{tests} tests, no guest", PAIRS[0].name)
    with _suite() as folder:
        many = f"import pytest\n@pytest.mark.parametrize('number', range({tests}))\ndef test_trivial(number): pass\n"
        (folder / "test_many.py").write_text(many)
        for turn in range(rounds):
            ways = [(cost.present, PAIRS[0].present), (cost.absent, PAIRS[0].absent)]
            for runs, way in ways if turn % 2 else reversed(ways):
                runs.append(_run_pytest(folder, (*way, "-q", "test_many.py"), autoload=PAIRS[0].autoload))
    return cost.added / tests


@contextmanager
def _suite() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        folder = Path(name)
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_trivial.py").write_text(_TEST)
        (folder / f"{_EMPTY}.py").touch()
        yield folder


def _run_pytest(folder: Path, arguments: Sequence[str], *, autoload: bool) -> Run:
    # Without byte code, each run would rewrite the assertions of the plugin's modules: no installation does so twice.
    unset = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "PYTHONDONTWRITEBYTECODE")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    if not autoload:
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    clock = Clock()
    subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        check=True,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    wall = clock.lap()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Run(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
