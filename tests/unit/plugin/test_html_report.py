"""When the page of a run is written, and where it cannot be."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import os, signal, time

import pytest

def test_passes(): pass

@pytest.mark.parametrize("name", ["<b>", "plain"])
def test_fails(name):
    assert name == "other"

@pytest.mark.xfail
def test_is_expected_to_fail(): assert False

@pytest.mark.skip
def test_is_skipped(): pass

@pytest.fixture
def broken(): raise ValueError

def test_set_up_fails(broken): pass
"""

KILLED = (
    TESTS
    + """
def test_dies():
    if "DIE" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
"""
)


def outcomes(page: Path) -> list[str]:
    return sorted(re.findall(r'aria-hidden="true"></span>(\d+ \w+)', page.read_text()))


@pytest.mark.parametrize("workers", ["-n0", pytest.param("-n2", marks=pytest.mark.thorough)])
def test_page_has_all_tests(pytester: pytest.Pytester, workers: str) -> None:
    pytester.makepyfile(test_it=TESTS)
    result = pytester.runpytest_subprocess("--xhyve-report=new/folder/page.html", workers)
    page = pytester.path / "new" / "folder" / "page.html"
    result.stdout.fnmatch_lines([f"xhyve: report at {page.as_uri()}"])
    assert outcomes(page) == ["1 error", "1 passed", "1 skipped", "1 xfailed", "2 failed"]
    text = page.read_text()
    # The path of the page may have the name of the worker that runs this test.
    assert bool(re.search(r">gw[01]<", text)) == (workers == "-n2")
    assert "test_fails[&lt;b&gt;]" in text
    assert "has not ended" not in text
    assert list(page.parent.iterdir()) == [page]


def test_run_that_is_killed_leaves_a_page(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(test_it=KILLED)
    pytester.makeconftest("import pytest_xhyve.plugin.html_report as it\n\nit._LEAST_SECONDS = it._SHARE = 0")
    monkeypatch.setenv("DIE", "1")
    result = pytester.runpytest_subprocess("--xhyve-report=page.html")
    assert result.ret == -signal.SIGKILL
    text = (pytester.path / "page.html").read_text()
    assert "has not ended, or was killed" in text
    assert "1 running" in outcomes(pytester.path / "page.html")
    assert "test_dies" in text


@pytest.mark.thorough
def test_two_runs_write_one_page(pytester: pytest.Pytester) -> None:
    """Whoever looks sees the page of one of them, and all of it."""
    pytester.makepyfile(test_it="import pytest\n\n@pytest.mark.parametrize('n', range(30))\ndef test_it(n): pass\n")
    pytester.makeconftest("import pytest_xhyve.plugin.html_report as it\n\nit._LEAST_SECONDS = it._SHARE = 0")
    page = pytester.path / "page.html"
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--xhyve-report={page}"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "cwd": pytester.path}
    runs = [subprocess.Popen([*argv, f"-k={half}"], **quiet) for half in ("not 1", "1")]  # type: ignore[call-overload]
    texts = set()
    while any(run.poll() is None for run in runs):
        if page.exists():
            texts.add(page.read_text())
        time.sleep(0.01)
    assert [run.returncode for run in runs] == [0, 0]
    assert len(texts) > 2
    assert all(text.startswith("<!doctype html>") and text.rstrip().endswith("</html>") for text in texts)
    both = [text for text in texts if "test_it[1]" in text and "test_it[2]" in text]
    assert not both
    assert not list(page.parent.glob(".page*"))


@pytest.mark.parametrize(
    ("file", "problem"), [("folder", "it is a folder"), ("file/page.html", "Not a directory|File exists")]
)
def test_page_that_cannot_be_written_is_a_usage_error(pytester: pytest.Pytester, file: str, problem: str) -> None:
    pytester.mkdir("folder")
    (pytester.path / "file").touch()
    result = pytester.runpytest_inprocess(f"--xhyve-report={file}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert re.search(rf"--xhyve-report: cannot write .*({problem})", result.stderr.str())


@pytest.mark.usefixtures("entry_points")
def test_run_without_the_option_imports_nothing_of_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it():
            assert not {"jinja2", "zstandard"} & sys.modules.keys()
            assert not {name for name in sys.modules if name.startswith("pytest_xhyve.report")}
        """
    )
    pytester.runpytest_subprocess("-p", "no:html").assert_outcomes(passed=1)
