"""What a run shows while something takes long."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

TEST = """
from pytest_xhyve.plugin.fixtures import line_printer

def test_it(request):
    show = line_printer(request.config)
    show("preparing it")
    show("  looking into it")
"""


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (("-n0", "-v"), 1),
        (("-n1",), 0),
        pytest.param(("-n0",), 0, marks=pytest.mark.thorough),
        pytest.param(("-n1", "-v"), 1, marks=pytest.mark.thorough),
    ],
)
def test_steps_are_shown_with_v(pytester: pytest.Pytester, options: tuple[str, ...], steps: int) -> None:
    pytester.makepyfile(test_it=TEST)
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=1)
    text = result.stdout.str() + result.stderr.str()
    assert text.count("xhyve: preparing it") == 1
    assert text.count("xhyve:   looking into it") == steps
