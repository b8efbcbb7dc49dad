"""The examples that are slow, or whose images need Debian's packages."""

from __future__ import annotations

import pages
import pytest


# An image is built first, if it is not there yet.
@pytest.mark.timeout(2700)
@pytest.mark.thorough
@pytest.mark.parametrize("suite", pages.SLOW_EXAMPLES)
def test_example_suite(pytester: pytest.Pytester, suite: str) -> None:
    path = pages.TOP / "conftest_examples" / suite
    result = pytester.runpytest_subprocess("--xhyve-image=debian12", "--timeout=1200", str(path))
    assert result.ret == 0
    assert result.parseoutcomes()["passed"] > 0
