"""The table of guest durations."""

from __future__ import annotations

from textwrap import dedent

import pytest

from pytest_xhyve.model.times import GuestTimes
from pytest_xhyve.model.values import format_seconds
from pytest_xhyve.report.durations import WIDTH, tabulate

WARM = {
    "image": 0.001,
    "template": 0.002,
    "clone": 0.012,
    "start": 0.05,
    "restore": 0.056,
    "banner": 0.24,
    "login": 0.1,
    "command": 0.039,
    "teardown": 0.008,
}
COLD = {"image": 0.001, "clone": 0.009, "start": 0.039, "boot": 12.26, "login": 0.12, "teardown": 0.011}


def guest(phases: dict[str, float], name: str = "tiny-0", image: str = "tiny", requested_by: str = "") -> GuestTimes:
    return GuestTimes(name, image, requested_by, phases)


def table(text: str) -> list[str]:
    return dedent(text).strip().splitlines()


def test_a_table_for_each_way_of_starting_and_a_row_for_each_image() -> None:
    guests = [
        guest(COLD),
        guest(WARM | {"template": 4.93}),
        guest(WARM, image="debian12"),
        guest(WARM),
        guest(WARM | {"teardown": 0.5}),
    ]
    assert tabulate(guests, each=False) == table(
        """
        warm          image  template  clone  start  restore  banner  handshake  command  teardown   total
        1 x debian12   1 ms      2 ms  12 ms  50 ms    56 ms  0.24 s     0.10 s    39 ms      8 ms  0.51 s
        3 x tiny       1 ms      2 ms  12 ms  50 ms    56 ms  0.24 s     0.10 s    39 ms      8 ms  1.00 s
          worst        1 ms    4.93 s  12 ms  50 ms    56 ms  0.24 s     0.10 s    39 ms    0.50 s  5.44 s
        cold      image  clone  start    boot  handshake  teardown   total
        1 x tiny   1 ms   9 ms  39 ms  12.3 s     0.12 s     11 ms  12.4 s
        """
    )


def test_a_line_for_each_guest_with_the_test_that_requested_it() -> None:
    guests = [
        guest(COLD, requested_by="test_it.py::test_one"),
        guest(COLD | {"command": 0.02}, "web", requested_by="session"),
    ]
    assert tabulate(guests, each=True) == table(
        """
        cold      image  clone  start    boot  handshake  command  teardown   total
        2 x tiny   1 ms   9 ms  39 ms  12.3 s     0.12 s    20 ms     11 ms  12.4 s
          worst    1 ms   9 ms  39 ms  12.3 s     0.12 s    20 ms     11 ms  12.5 s
          tiny-0   1 ms   9 ms  39 ms  12.3 s     0.12 s        -     11 ms  12.4 s  test_it.py::test_one
          web      1 ms   9 ms  39 ms  12.3 s     0.12 s    20 ms     11 ms  12.5 s  session
        """
    )


def test_no_guests_no_table() -> None:
    assert tabulate([], each=True) == []


def test_a_phase_that_is_new_has_a_column() -> None:
    head, _ = tabulate([guest({"image": 1.0, "reset": 2.0, "teardown": 3.0})], each=False)
    assert head.split() == ["cold", "image", "reset", "teardown", "total"]


@pytest.mark.parametrize("seconds", [0.0, 0.0123, 0.123, 12.3, 123.4, 5000.0])
def test_table_is_as_wide_as_it_may_be(seconds: float) -> None:
    phases = dict.fromkeys(WARM, seconds)
    head, *rows = tabulate([guest(phases, image="tiny-partitioned-and-more"), guest(phases)] * 60, each=False)
    assert [row[:6] for row in rows] == ["60 x t", "  wors", "60 x t", "  wors"]
    assert {len(line) for line in (head, *rows)} == {WIDTH}
    assert "…  " in rows[2]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 ms"),
        (0.0004, "0 ms"),
        (0.0126, "13 ms"),
        (0.0994, "99 ms"),
        (0.0996, "0.10 s"),
        (0.134, "0.13 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (99.96, "100 s"),
        (1234.5, "1234 s"),
    ],
)
def test_seconds(seconds: float, shown: str) -> None:
    assert format_seconds(seconds) == shown


def test_times_survive_the_way_to_the_controller() -> None:
    import execnet

    times = guest(WARM, requested_by="session")
    assert GuestTimes.from_message(execnet.loads(execnet.dumps(times.to_message()))) == times
