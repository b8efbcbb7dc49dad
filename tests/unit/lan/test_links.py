"""What the switch does to frames on their way: with a clock that the tests set."""

from __future__ import annotations

import tracemalloc

import pytest

from pytest_xhyve.lan.links import Link, Links
from pytest_xhyve.model.link import Impairment, LinkState

FRAME = (60).to_bytes(4, "big") + bytes(60)
MANY = 1000


def arrivals(link: Link, count: int = MANY, every: float = 0.0) -> list[list[float]]:
    """By how many seconds each of *count* frames is late, as often as it arrives."""
    return [[at - number * every for at, _ in link.arrivals(FRAME, number * every)] for number in range(count)]


def impaired(seed: str = "1", **values: str) -> Link:
    return Link(seed, Impairment.parse(**values).to_dict())


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_share_of_lost_frames(share: float) -> None:
    link = Link("1", Impairment(loss=share).to_dict())
    lost = sum(not each for each in arrivals(link))
    assert abs(lost / MANY - share) < 0.05


def test_same_seed_loses_the_same_frames() -> None:
    first, again, other = (arrivals(impaired(seed, loss="30%")) for seed in ("1", "1", "2"))
    assert first == again != other


def test_late_frames_keep_their_order() -> None:
    late = [at for (at,) in arrivals(impaired(latency="100ms", jitter="30ms"), every=0.001)]
    assert all(0.07 <= at <= 0.131 for at in late)
    assert max(late) - min(late) > 0.02
    times = [round(number * 0.001 + at, 9) for number, at in enumerate(late)]
    assert times == sorted(times)


def test_frames_that_overtake_are_on_time() -> None:
    late = [at for (at,) in arrivals(impaired(latency="100ms", reorder="20%"))]
    assert 150 < late.count(0.0) < 250
    assert set(late) == {0.0, 0.1}


def test_rate_makes_frames_wait_and_loses_what_waits_too_long() -> None:
    # 480 bits each: 0.011 s.
    late = arrivals(impaired(rate="43.6kbit"), count=300)
    assert late[0] == [pytest.approx(0.011, abs=0.001)]
    assert late[50] == [pytest.approx(0.561, abs=0.001)]
    assert [len(each) for each in late] == [1] * 91 + [0] * 209


def test_slowest_rate_passes_a_frame_that_takes_longer_than_others_may_wait() -> None:
    frame = (1514).to_bytes(4, "big") + bytes(1514)
    link = impaired(rate="1kbit")
    late = [[at for at, _ in link.arrivals(frame, now)] for now in (0.0, 1.0, 12.0)]
    assert late == [[pytest.approx(12.112)], [], [pytest.approx(24.224)]]


def test_frames_that_arrive_twice_or_damaged() -> None:
    assert all(len(each) == 2 for each in arrivals(impaired(duplicate="100%")))
    damaged = [frame for _ in range(MANY) for _, frame in Link("1", {"corrupt": 0.5}).arrivals(FRAME, 0)]
    assert damaged == [damaged[0]] * MANY
    link = Link("1", {"corrupt": 0.5})
    frames = [frame for _ in range(MANY) for _, frame in link.arrivals(FRAME, 0)]
    wrong = [frame for frame in frames if frame != FRAME]
    assert 400 < len(wrong) < 600
    # The length and the addresses stay, so that the frame arrives.
    assert all(frame[:18] == FRAME[:18] and sum(map(int.bit_count, frame)) == (60).bit_count() + 1 for frame in wrong)


def test_too_short_a_frame_is_not_damaged() -> None:
    frame = (14).to_bytes(4, "big") + bytes(14)
    assert [arriving for _, arriving in Link("1", {"corrupt": 1.0}).arrivals(frame, 0)] == [frame]


def test_one_way_only() -> None:
    links = Links()
    links.block("a", "b", blocked=True)
    got: list[bytes] = []
    links.send("a", "b", FRAME, 0, got.append)
    assert got == []
    links.send("b", "a", FRAME, 0, got.append)
    assert got == [FRAME]
    links.clear()
    assert not links
    links.send("a", "b", FRAME, 0, got.append)
    assert len(got) == 2


def test_block_and_impairment_do_not_end_each_other() -> None:
    links = Links()
    got: list[bytes] = []
    links.block("a", "b", blocked=True)
    links.impair("a", "b", {"latency": 0.1}, "1")
    links.send("a", "b", FRAME, 0, got.append)
    assert links.seconds_to_next(0) is None
    links.block("a", "b", blocked=False)
    links.send("a", "b", FRAME, 0, got.append)
    assert got == []
    assert links.seconds_to_next(0) == pytest.approx(0.1)
    assert list(links.take_arrived(0.05)) == []
    assert list(links.take_arrived(0.1)) == [("b", FRAME)]
    links.impair("a", "b", None, "1")
    assert not links


def test_state_makes_the_same_links() -> None:
    links = Links()
    links.impair("a", "b", {"loss": 0.5}, "7")
    links.block("b", "a", blocked=True)
    first, second = links.state()
    assert first == {"source": "a", "target": "b", "blocked": False, "impairment": {"loss": 0.5}, "seed": "7"}
    assert second == {"source": "b", "target": "a", "blocked": True, "impairment": None, "seed": ""}
    assert LinkState.from_dict(first).impairment == Impairment(loss=0.5)
    assert LinkState.from_dict(second).blocked


def test_frame_on_its_way_is_lost_when_the_way_is_blocked_or_its_target_starts_again() -> None:
    links = Links()
    got: list[bytes] = []
    for target in ("b", "c", "d"):
        links.impair("a", target, {"latency": 0.1}, "1")
        links.send("a", target, FRAME, 0, got.append)
    links.block("a", "b", blocked=True)
    links.forget("c")
    assert list(links.take_arrived(0.1)) == [("d", FRAME)]
    assert got == []


def test_frames_that_wait_take_a_limited_amount_of_memory() -> None:
    links = Links(1 << 20)
    links.impair("a", "b", {"latency": 60.0}, "1")
    tracemalloc.start()
    for _ in range(6000):
        links.send("a", "b", bytes(bytearray(18)), 0.0, print)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 1 << 19 < taken < 1 << 20
    # The others were lost.
    assert 3000 < len(list(links.take_arrived(60.0))) < 6000
    links.send("a", "b", FRAME, 0.0, print)
    assert len(list(links.take_arrived(60.0))) == 1
