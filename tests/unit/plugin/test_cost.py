"""What a test costs that has no guest."""

from __future__ import annotations

import pytest

TESTS = 40
MOST_CALLS = 6


def test_little_of_the_plugin_runs_for_a_test_without_a_guest(pytester: pytest.Pytester) -> None:
    """A number of calls, as times depend on what else the host does; `python -m benchmarks.own` measures them."""
    pytester.makeconftest(
        """
        import pathlib
        import sys

        import pytest

        calls = []

        def count(frame, event, _):
            if event == "call" and "pytest_xhyve" in pathlib.PurePath(frame.f_code.co_filename).parts:
                calls.append(f"{frame.f_code.co_filename}:{frame.f_code.co_name}")

        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_runtestloop():
            before = sys.getprofile()
            sys.setprofile(count)
            try:
                return (yield)
            finally:
                sys.setprofile(before)
                pathlib.Path("calls").write_text("\\n".join(calls))
        """
    )
    pytester.makepyfile(f"import pytest\n@pytest.mark.parametrize('number', range({TESTS}))\ndef test_it(number): pass")
    pytester.runpytest_inprocess().assert_outcomes(passed=TESTS)
    calls = (pytester.path / "calls").read_text().splitlines()
    assert calls[0]
    assert len(calls) <= TESTS * MOST_CALLS, sorted(set(calls))
