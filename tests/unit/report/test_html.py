"""The HTML page of a run: what it shows, that text of guests and tests is harmless in it, and that it stays small."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from typing import Any

from pytest_xhyve.model.completed import Completed
from pytest_xhyve.model.failed_guest import FailedGuest
from pytest_xhyve.model.failure import CommandRecord
from pytest_xhyve.model.times import GuestTimes
from pytest_xhyve.report.html import render
from pytest_xhyve.report.run_data import Outcome, RunData
from pytest_xhyve.report.timeline import draw

HOSTILE = (
    "</pre></script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"&{{ 7*7 }}"
)
BEGAN = 1_700_000_000.0
PHASES = {"image": 0.01, "template": 0.02, "clone": 0.03, "start": 0.1, "restore": 0.1, "banner": 0.2, "login": 0.1}


def times_of(number: int, at: float, **more: Any) -> dict[str, Any]:
    phases = {**PHASES, "command": 0.1, "teardown": 0.05}
    return GuestTimes(f"tiny-{number}", "tiny", "", phases, BEGAN + at, 0.5, 2.0).to_message() | more


def run_of(tests: int, workers: int = 2) -> RunData:
    """A run in which every test has a guest of its own and passes."""
    data = RunData()
    data.began = BEGAN
    for number in range(tests):
        test, worker, at = (
            f"tests/test_it.py::test_number[{number}]",
            f"gw{number % workers}",
            3.0 * (number // workers),
        )
        guest = times_of(number % workers, at)
        for step, begin, end in (("setup", 0.0, 1.0), ("call", 1.0, 2.0), ("teardown", 2.0, 2.5)):
            extra = {"guests": [guest], **({"removed": [guest]} if step == "teardown" else {})}
            outcome: Outcome = "passed" if step == "call" else "running"
            data.add_step(test, worker, step, outcome, (BEGAN + at + begin, BEGAN + at + end), "", (), extra)
    data.ended = BEGAN + 3.0 * tests
    return data


def add_failure(data: RunData, text: str) -> None:
    command = CommandRecord.of("web", Completed(text, 2, text, text, 0.1), BEGAN)
    extra = {
        "commands": [vars_of(command)],
        "bundle": f"pytest-xhyve resume {text}",
        "failed": [FailedGuest("web", f"\x1b[31m{text}\x1b[0m", text, "iVBORw0KGgo=").to_message()],
    }
    data.add_step(f"test_it.py::test[{text}]", "gw0", "call", "failed", (BEGAN, BEGAN + 1), text, [(text, text)], extra)


def vars_of(command: CommandRecord) -> dict[str, Any]:
    return {name: getattr(command, name) for name in CommandRecord.__slots__}


class Parsed(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def test_page_shows_all_tests_and_guests() -> None:
    data = run_of(10)
    add_failure(data, "some output")
    page = Parsed(render(data, about="pytest 9", finished=True))
    assert page.count("tr") == 11 + 2 + 1
    assert "10 passed" in page.text
    assert "1 failed" in page.text
    assert "pytest-xhyve resume some output" in page.text
    assert "exit code 2" in page.text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {(attributes["href"] or "")[1:] for tag, attributes in page.tags if tag == "a"}
    assert links <= set(ids)
    assert "has not ended" not in page.text
    assert "has not ended" in Parsed(render(data, about="", finished=False)).text


def test_hostile_text_is_only_text() -> None:
    data = run_of(1)
    add_failure(data, HOSTILE + "\x1b[2J\u202e\udcff")
    text = render(data, about=HOSTILE, finished=True)
    page = Parsed(text)
    assert page.count("script") == 1
    assert page.count("img") == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "document.title='owned'" in page.text
    assert "{{ 7*7 }}" in page.text
    assert not set("\x1b\u202e\udcff") & set(text)
    # Only the page's own script may run, and nothing is loaded.
    policy = next(str(attributes["content"]) for tag, attributes in page.tags if "http-equiv" in attributes)
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'sha256-\S+'; style-src-attr 'none'; script-src 'sha256-\S+'",
        policy,
    )


def test_page_stays_small_and_is_drawn_fast() -> None:
    begin = time.process_time()
    page = render(run_of(2000, workers=4), about="", finished=True)
    assert len(page.encode()) < (300 << 10) + 2000 * (4 << 10)
    assert time.process_time() - begin < 10
    data = run_of(0)
    add_failure(data, "x" * (10 << 20))
    assert len(render(data, about="", finished=True)) < 1 << 20


def test_guests_of_one_worker_do_not_overlap() -> None:
    data = RunData()
    data.add_removed("gw0", [times_of(0, 0.0), times_of(1, 1.0), times_of(2, 10.0)])
    lanes = [lane for lane in draw(data, BEGAN + 20).lanes if not lane.is_test]
    assert [len({bar.title.split(" ")[0] for bar in lane.bars}) for lane in lanes] == [2, 1]
    for lane in lanes:
        ends = 0.0
        for bar in lane.bars:
            assert bar.left >= ends - 0.05
            ends = bar.left + bar.width
    kinds = [bar.kind for bar in lanes[0].bars if bar.title.startswith("tiny-0")]
    assert kinds == ["wait", "prepare", "start", "use", "remove"]


def test_empty_run_has_a_page() -> None:
    assert "No test had a guest" in render(RunData(), about="", finished=True)


def test_each_run_of_a_test_counts() -> None:
    data = RunData()
    for outcome in ("failed", "passed"):
        data.add_step("test_it", "main", "setup", "running", (BEGAN, BEGAN), "", (), {})
        data.add_step("test_it", "main", "call", outcome, (BEGAN, BEGAN), "", (), {})
        data.add_step("test_it", "main", "teardown", "running", (BEGAN, BEGAN), "", (), {})
    data.begin_test("test_killed", "main")
    assert [run.outcome for run in data.tests] == ["failed", "passed", "running"]
    data.add_step("test_it", "main", "teardown", "error", (BEGAN, BEGAN), "", (), {})
    assert data.tests[1].outcome == "error"
