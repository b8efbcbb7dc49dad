"""Where the guests' time went, as the run of a user shows it."""

from __future__ import annotations

import re

import pytest

pytest_plugins = ["pytester"]

OPTIONS = ("--xhyve-hypervisor=qemu", "--xhyve-image=tiny")
TESTS = """
    import pytest

    def test_own(xhyve_guest):
        xhyve_guest.run("true")

    @pytest.mark.xhyve(start="cold")
    def test_cold(xhyve_guest):
        pass

    def test_lives_until_the_end(xhyve_session_guest):
        xhyve_session_guest.run("true")
"""
WARM = ["warm", "image", "template", "clone", "start", "restore", "banner", "handshake", "command", "teardown", "total"]
COLD = ["cold", "image", "clone", "start", "boot", "handshake", "teardown", "total"]


@pytest.mark.thorough
def test_table_of_one_process(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=TESTS)
    result = pytester.runpytest_subprocess(*OPTIONS, "-v", "-p", "no:xdist")
    result.assert_outcomes(passed=3)
    rows = rows_of(result)
    assert [row[0] for row in rows] == ["warm", "2 x tiny", "worst", "tiny-0", "tiny-0", "cold", "1 x tiny", "tiny-0"]
    assert (rows[0], rows[5]) == (WARM, COLD)
    assert [row[-1] for row in rows if row[0] == "tiny-0"] == [
        "test_it.py::test_own",
        "session",
        "test_it.py::test_cold",
    ]
    for row in rows:
        if row[0] not in ("warm", "cold"):
            assert all(re.fullmatch(r"\d+ ms|[\d.]+ s", cell) for cell in row[1 : len(WARM if len(row) > 9 else COLD)])


def test_table_of_two_workers(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=TESTS)
    result = pytester.runpytest_subprocess(*OPTIONS, "--durations=0", "-n", "2")
    result.assert_outcomes(passed=3)
    assert result.stdout.str().count("guest durations") == 1
    assert [row[0] for row in rows_of(result)] == ["warm", "2 x tiny", "worst", "cold", "1 x tiny"]


def rows_of(result: pytest.RunResult) -> list[list[str]]:
    """The cells of the table's lines."""
    lines = result.stdout.lines
    begin = next(number for number, line in enumerate(lines) if " guest durations " in line) + 1
    end = next(number for number, line in enumerate(lines[begin:], begin) if not line or line.startswith("="))
    return [re.split(r" {2,}", line.strip()) for line in lines[begin:end]]
