"""What all tests share."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import other_plugins
import pytest
from homes import marks_against_templates, share
from standin import namespace
from standin.mac import Mac
from strategies import examples, examples_factor

from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.images.build import build_image

pytest_plugins = ["file_order"]

LEAN = f"-p no:hypothesispytest -p no:html -p no:metadata -p no:allure_pytest {other_plugins.WITHOUT}"
"""What a pytest that a test starts does without: to load these takes half of its time."""

hypothesis.settings.register_profile(
    "this-run",
    # Examples that start a program take as long as the machine makes them take.
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    max_examples=examples(100).max_examples,
    # `make test` and `make thorough-unit` try the same examples in each run: a change is not blamed for what was there
    # before. `make fuzz` looks for others.
    derandomize=examples_factor() <= 1,
)
hypothesis.settings.load_profile("this-run")


def pytest_configure(config: pytest.Config) -> None:
    # In the background of a script they are ignored, and all that is started here would inherit it.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    # pytester gives the runs inside a HOME of their own; images are built once for all.
    home = Home.of_user()
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None and home.path.name != worker:
        # Tests look for what is left behind, so that each worker has runs and slots of its own.
        home = share(home, home.path / "test-workers" / worker)
    elif worker is None:
        # What an earlier run could not do, this one tries.
        for mark, _ in marks_against_templates(home):
            mark.unlink(missing_ok=True)
        keep_byte_code(config.rootpath / ".pytest_cache" / "byte-code")
    os.environ[HOME_VARIABLE] = str(home.path)


def keep_byte_code(folder: Path) -> None:
    """Have each Python that a test starts keep its byte code in *folder*.

    A pytest without it rewrites the assertions of all plugins' modules, which takes four fifths of its time.
    """
    # What is there of the files that earlier tests wrote: not of a checkout that is in the same folder.
    for written in (folder / Path(tempfile.gettempdir()).relative_to("/")).glob("pytest-of-*"):
        shutil.rmtree(written, ignore_errors=True)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what pytest collects out of each later garbage collection: it stays until the end anyway.

    Otherwise, each full collection takes 0.1 s.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the property tests, for `make fuzz` and `make thorough-unit`."""
    if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
        item.add_marker("fuzz")


@pytest.fixture(autouse=True)
def lean_runs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pytest that a test starts loads what the test is about."""
    if "pytester" in request.fixturenames:
        # It removes the variable.
        request.getfixturevalue("pytester")
    monkeypatch.setenv("PYTEST_ADDOPTS", LEAN)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A folder of the plugin's in which nothing was learnt about this host, with the images of the user."""
    return share(Home.of_user(), tmp_path / "home")


@pytest.fixture
def new_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A folder of the plugin's that nothing has used."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    return Home.of_user()


@pytest.fixture
def proofs() -> Path:
    """The folder with what the tests have proved about this host; a proof that fails takes seconds of CPU."""
    return Home.of_user().folder("acceleration")


@pytest.fixture
def new_home_with_proofs(proofs: Path, new_home: Home) -> Home:
    """A folder of the plugin's that nothing has used, and that knows what works on this host."""
    new_home.path.mkdir(mode=0o700)
    (new_home.path / proofs.name).symlink_to(proofs)
    return new_home


@pytest.fixture(scope="session")
def mac(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mac]:
    """A Mac, as far as xhyve can see one; from here on this process is in namespaces of its own."""
    reason = namespace.can_enter()
    if reason is not None:
        pytest.skip(f"no network for xhyve's stand-in: {reason}")
    for name in ("debian12", "tiny", "tiny-partitioned"):
        # In there is nothing to download from.
        build_image(name, Home.of_user(), print)
    namespace.enter()
    with Mac(tmp_path_factory.mktemp("mac")) as mac:
        yield mac
