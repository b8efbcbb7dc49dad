"""What a user sees when a test or a guest fails: the artifacts of its guests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from chosen import Chosen

pytest_plugins = ["pytester"]


pytestmark = pytest.mark.usefixtures("nothing_is_kept")


@pytest.mark.thorough
@pytest.mark.run_under("warm")
def test_each_rerun_has_artifacts_of_its_own(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    # As pytest-rerunfailures does it, which would put a server into every run that is started here.
    pytester.makeconftest(
        """
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
            if any(report.failed for report in reports):
                reports = runtestprotocol(item, log=False, nextitem=nextitem)
            for report in reports:
                item.ihook.pytest_runtest_logreport(report=report)
            return True
        """
    )
    pytester.makepyfile(
        test_it="""
        import pathlib

        def test_flaky(xhyve_guest):
            runs = pathlib.Path("runs")
            with runs.open("a") as file:
                file.write("x")
            words = f"run-{runs.read_text()}-said"
            xhyve_guest.run(f"echo {words} > /dev/console")
            xhyve_guest.console.wait_for(words)
            assert len(runs.read_text()) > 1
        """
    )
    options = (*hypervisor.options, "--xhyve-image=tiny", "--xhyve-artifacts=art")
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=1)
    assert what_consoles_said(pytester.path) == {
        "test_it.py-test_flaky": ["run-x-said"],
        "test_it.py-test_flaky.rerun-1": ["run-xx-said"],
    }
    # What an earlier run has left is none of the next one's.
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=1)
    assert what_consoles_said(pytester.path) == {"test_it.py-test_flaky": ["run-xxx-said"]}


_SAID = re.compile(r"^run-x+-said", re.MULTILINE)


def what_consoles_said(folder: Path) -> dict[str, list[str]]:
    """What the test wrote to the console, by its folder of artifacts."""
    found = {path.name: path.glob("*/console.log") for path in (folder / "art").iterdir()}
    return {name: [word for path in paths for word in _SAID.findall(path.read_text())] for name, paths in found.items()}
