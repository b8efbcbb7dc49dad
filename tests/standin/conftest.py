"""A Mac for the tests of what runs on it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from pytest_xhyve.host.home import Home
from pytest_xhyve.images.build import build_image
from pytest_xhyve.model.image import Image
from standin.commandline import Build
from standin.mac import Mac
from standin.running import BRIDGES, QUICK, Running

# One that does not ask its terminal where the cursor is.
SHELL = "set -f; while printf '# '; read -r line; do eval $line; done"
BUILDS: tuple[Build, ...] = ("v0.2.0", "head", "hyperkit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is tested here is the stand-in."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("standin")


class Start(Protocol):
    """Start a stand-in, which dies with the test."""

    def __call__(
        self, *words: str | Path, build: Build = ..., stdin: int | None = ..., stdout: int | None = ...
    ) -> Running: ...


class Run(Protocol):
    """Run a stand-in to its end."""

    def __call__(
        self, *words: str | Path, build: Build = ..., before: Sequence[str] = ...
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def tiny() -> Image:
    return build_image("tiny", Home.of_user(), print)


@pytest.fixture(scope="session")
def mac(mac: Mac) -> Mac:
    """The Mac of all tests, whose vmnet takes no time here."""
    mac.behave(vmnet_seconds=0)
    return mac


@pytest.fixture
def behave(mac: Mac) -> Iterator[Callable[..., None]]:
    """Let things go wrong, for the time of the test."""

    def behave(**faults: Any) -> None:
        mac.behave(**{"vmnet_seconds": 0, "lease_delay": 0, **faults})

    yield behave
    mac.behave(vmnet_seconds=0)


@pytest.fixture(scope="session")
def programs(mac: Mac, tmp_path_factory: pytest.TempPathFactory) -> dict[Build, Path]:
    folder = tmp_path_factory.mktemp("programs")
    return {build: mac.install(folder / build / "xhyve", build) for build in BUILDS}


@pytest.fixture(scope="module")
def start_for_module(programs: dict[Build, Path]) -> Iterator[Start]:
    yield from _starting(programs)


@pytest.fixture
def start(programs: dict[Build, Path]) -> Iterator[Start]:
    yield from _starting(programs)


@pytest.fixture
def run(programs: dict[Build, Path]) -> Run:
    def run(*words: str | Path, build: Build = "head", before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        argv = [*before, programs[build], *words]
        return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture(scope="session")
def kernel(tiny: Image) -> Callable[..., list[str]]:
    """The words that boot a shell, or a script of it, from the initial RAM disk."""

    def words(script: str | None = None, cmdline: str = "", console: str = "ttyS0") -> list[str]:
        init = f'rdinit=/bin/busybox -- sh -c "{SHELL if script is None else script}"'
        cmdline = f"console={console} {QUICK} {cmdline} {init}"
        return [*BRIDGES, "-m", "128M", "-f", f"kexec,{tiny.kernel},{tiny.initrd},{cmdline}"]

    return words


@pytest.fixture
def disk(tiny: Image, tmp_path: Path) -> Path:
    """A copy of the image's disk."""
    path = tmp_path / "disk.img"
    copy_disk(tiny, path)
    return path


def copy_disk(image: Image, path: Path) -> None:
    subprocess.run(["cp", "--sparse=always", image.disk, path], check=True)
    path.chmod(0o600)


def _starting(programs: dict[Build, Path]) -> Iterator[Start]:
    with ExitStack() as owned:

        def start(
            *words: str | Path, build: Build = "head", stdin: int | None = None, stdout: int | None = None
        ) -> Running:
            return owned.enter_context(Running([programs[build], *words], stdin=stdin, stdout=stdout))

        yield start
