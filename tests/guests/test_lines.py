"""What a run says of itself while it runs: little, once, and also under xdist."""

from __future__ import annotations

import re

import pytest
from chosen import Chosen

pytest_plugins = ["pytester"]

TESTS = """
import pytest

@pytest.mark.parametrize("number", range(2))
def test_it(xhyve_guest, number):
    xhyve_guest.run("sleep 4")
"""


@pytest.mark.thorough
@pytest.mark.run_under("warm")
def test_lines_of_a_run(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    pytester.makepyfile(test_it=TESTS)
    options = (*hypervisor.options, "--xhyve-image=tiny")
    result = pytester.runpytest_subprocess(*options, "-v", "-n2", "--xhyve-max-guests=1")
    result.assert_outcomes(passed=2)
    said = result.stdout.str() + result.stderr.str()
    started = re.findall(r"^\[gw\d\] xhyve: tiny-0 \(tiny\): restored, ready after [0-9.]+ m?s$", said, re.MULTILINE)
    assert len(started) == 2, said
    waiting = re.findall(r"^\[gw\d\] xhyve: waiting for .*running: 1 guest", said, re.MULTILINE)
    waited = re.findall(r"^\[gw\d\] xhyve: waited [0-9.]+ s for a free slot$", said, re.MULTILINE)
    assert (len(waiting), len(waited)) == (1, 1), said

    # Without -v, there is nothing to say beside the header.
    quiet = pytester.runpytest_subprocess(*options, "-k", "test_it and 0")
    quiet.assert_outcomes(passed=1)
    lines = [line for line in quiet.outlines if line.startswith("xhyve: ")]
    header = quiet.outlines[: next(n for n, line in enumerate(quiet.outlines) if line.startswith("collected"))]
    assert set(lines) <= set(header), quiet.stdout.str()
