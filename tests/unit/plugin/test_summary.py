"""When a run shows the table of guest durations. No guest is started."""

from __future__ import annotations

import pytest

# A guest that lives until the end of the session, as the fleet would report it.
CONFTEST = """
    import sys

    import pytest
    from pytest_xhyve.plugin.fixtures import SUMMARY

    @pytest.fixture(scope="session")
    def fleet(request):
        from pytest_xhyve.report.durations import GuestTimes
        from pytest_xhyve.plugin.summary import RunSummary

        times = request.config.stash.setdefault(SUMMARY, RunSummary()).times
        yield
        name = getattr(request.config, "workerinput", {"workerid": "alone"})["workerid"]
        times.append(GuestTimes(name, "tiny", "session", {"clone": 0.01, "boot": 2.0, "teardown": 0.02}))

    def pytest_unconfigure(config):
        print("table imported:", "pytest_xhyve.report.durations" in sys.modules)
"""
TESTS = """
    import pytest

    @pytest.mark.parametrize("number", range(4))
    def test_guest(fleet, number): pass

    def test_fails(fleet): assert False
"""
HEAD = "cold      clone    boot  teardown   total"
ROW = "  10 ms  2.00 s     20 ms  2.03 s"


@pytest.mark.usefixtures("entry_points")
@pytest.mark.parametrize("arguments", [["--durations=0"], ["-q", "--durations=3"], ["-x", "--durations=1"]])
def test_shown_with_durations(pytester: pytest.Pytester, arguments: list[str]) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("-p", "no:xdist", *arguments)
    result.stdout.fnmatch_lines(["=*= guest durations =*=", HEAD, f"1 x tiny{ROW}"], consecutive=True)
    assert "alone" not in result.stdout.str()


@pytest.mark.usefixtures("entry_points")
def test_each_guest_is_shown_with_v(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("-p", "no:xdist", "-v")
    result.stdout.fnmatch_lines([HEAD, f"1 x tiny{ROW}", f"  alone {ROW}  session"], consecutive=True)


@pytest.mark.parametrize("arguments", [[], ["-q"], ["-v", "-q"]])
def test_not_shown_otherwise(pytester: pytest.Pytester, arguments: list[str]) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    assert "guest durations" not in pytester.runpytest_inprocess(*arguments).stdout.str()


def test_run_without_guests_shows_and_imports_nothing(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile("def test_plain(): pass")
    result = pytester.runpytest_subprocess("-v", "--durations=0")
    assert "guest durations" not in result.stdout.str()
    result.stdout.fnmatch_lines(["table imported: False"])


@pytest.mark.parametrize("arguments", [[], pytest.param(["-x"], marks=pytest.mark.thorough)])
def test_controller_shows_the_guests_of_all_workers(pytester: pytest.Pytester, arguments: list[str]) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-n", "2", "-v", "--durations=0", *arguments)
    assert result.stdout.str().count("guest durations") == 1
    result.stdout.fnmatch_lines([HEAD, f"2 x tiny{ROW}", f"  worst {ROW}"], consecutive=True)
    assert sorted(line.split()[0] for line in result.stdout.lines if line.endswith(f"{ROW}  session")) == ["gw0", "gw1"]


def test_worker_that_crashed_sends_nothing(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile("import os\ndef test_guest(fleet): os._exit(3)")
    result = pytester.runpytest_subprocess("-n", "1", "--max-worker-restart=0", "--durations=0")
    assert "guest durations" not in result.stdout.str()
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
