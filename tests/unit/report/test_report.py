"""What is told of guests, where no guest is needed to tell it."""

from __future__ import annotations

import pickle

import execnet
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pytest_xhyve import Completed
from pytest_xhyve.model.kept import Kept
from pytest_xhyve.model.times import GuestTimes
from pytest_xhyve.plugin.summary import RunSummary
from pytest_xhyve.report.artifacts import folder_name
from pytest_xhyve.report.assertions import RecentCommands

FAILED = Completed("hwclock --show", 1, "", "hwclock: Cannot access the Hardware Clock\n", 0.25)


def test_result_is_what_it_was() -> None:
    assert FAILED.returncode == 1
    assert isinstance(FAILED.returncode, int)
    assert FAILED.stderr == "hwclock: Cannot access the Hardware Clock\n"
    assert pickle.loads(pickle.dumps(FAILED)) == FAILED  # noqa: S301  # our own
    assert repr(FAILED) == (
        "Completed('hwclock --show', returncode=1, stdout='', stderr='hwclock: Cannot access the Hardware Clock\\n', "
        "duration=0.25)"
    )
    assert len(repr(Completed("cat", 0, "x" * 10_000, "", 1.0))) < 200


def remembered(completed: Completed, *, checked: bool = False) -> RecentCommands:
    results = RecentCommands()
    results.add(completed, checked=checked)
    return results


def test_compared_code_shows_the_command() -> None:
    assert remembered(FAILED).explain("==", FAILED.returncode, 0) == [
        "1 == 0",
        "",
        "$ hwclock --show",
        "stdout: (nothing)",
        "stderr:",
        "  hwclock: Cannot access the Hardware Clock",
        "it ended with exit code 1 after 0.2 s",
    ]


def test_compared_output_shows_the_difference_and_the_command() -> None:
    done = Completed("seq 3", 0, "1\n2\n3\n", "careful\n", 0.1)
    results = remembered(done, checked=True)
    lines = results.explain("==", done.stdout, "1\nx\n3\n")
    assert lines is not None
    assert lines[:6] == [r"'1\n2\n3\n' == '1\nx\n3\n'", "", " 1", "-x", "+2", " 3"]
    assert {"$ seq 3", "  careful"} <= set(lines)
    assert "$ seq 3" in (results.explain("in", "x", done.stdout.strip()) or [])


def test_last_of_several_commands_counts() -> None:
    results = remembered(FAILED)
    results.add(Completed("modprobe x", 1, "", "FATAL", 0.1), checked=False)
    results.add(Completed("true", 0, "", "", 0.1), checked=True)
    assert "$ modprobe x" in (results.explain("==", 1, 0) or [])
    results.clear()
    assert results.explain("==", 1, 0) is None


@pytest.mark.parametrize(
    ("op", "left", "right"),
    [("==", 2, 0), ("==", 1, 3), ("==", True, 0), ("<", 1, 0), ("==", "a", "b"), ("==", "", "b")],
)
def test_other_comparisons_are_left_to_pytest(op: str, left: object, right: object) -> None:
    assert remembered(FAILED).explain(op, left, right) is None


def test_long_difference_is_cut() -> None:
    done = Completed("seq", 0, "\n".join(map(str, range(500))), "", 0.1)
    lines = remembered(done).explain("==", done.stdout, "nothing")
    assert lines is not None
    assert "… 441 lines more" in lines


def test_result_can_be_sent_anywhere() -> None:
    """As a property of a test under xdist, or in a YAML file."""
    for value in (FAILED.returncode, FAILED.stderr, FAILED.stderr.strip()):
        assert execnet.loads(execnet.dumps(value)) == value
        assert yaml.safe_load(yaml.safe_dump(value)) == value


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=400))
def test_artifacts_folder_has_a_name_that_every_file_system_takes(test: str) -> None:
    name = folder_name(test)
    assert name not in ("", ".", "..")
    assert not set(name) & set('/\\:*?"<>|\0')
    assert len(name.encode()) <= 255


@given(st.lists(st.text("ab-/:[]é.", min_size=1, max_size=8), unique=True))
def test_artifacts_folders_are_each_tests_own(ids: list[str]) -> None:
    tests = [f"tests/test_it.py::test[{text}]" for text in ids]
    assert len({folder_name(test) for test in tests}) == len(tests)


def test_artifacts_folder_can_be_read() -> None:
    assert folder_name("tests/test_web.py::TestWeb::test_starts") == "tests-test_web.py-TestWeb-test_starts"


def test_workers_hand_over_all_they_gathered() -> None:
    gathered = RunSummary(
        [GuestTimes("tiny-0", "tiny", "test_it", {"boot": 2.0})],
        [Kept("tiny-0", "tiny", "test_it", ("ssh", "-F", "a b", "tiny-0"), "/console")],
        ["note"],
        ["process 7: qemu"],
    )
    other = RunSummary()
    other.add_message(gathered.to_message())
    assert other == gathered
    assert other.kept[0].login == "ssh -F 'a b' tiny-0"
