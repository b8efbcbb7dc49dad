"""The HTML page of a run in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import WIDTHS, browser, console_of, needed, open_page, opening_seconds, violations
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from unit.report.test_html import BEGAN, HOSTILE, add_failure, run_of

from pytest_xhyve.report.html import render

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

# A browser takes seconds to start; make thorough-unit has time for it, and CI runs that.
pytestmark = [needed, pytest.mark.thorough]


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("browser")) as chrome:
        yield chrome


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of four workers, which has all that a page may have, and hostile text wherever it may be."""
    data = run_of(40, workers=4)
    add_failure(data, HOSTILE)
    add_failure(data, "another failure")
    data.add_step("test_it.py::test_error", "gw2", "setup", "error", (BEGAN + 30, BEGAN + 31), "no fixture", (), {})
    data.begin_test("test_it.py::test_killed", "gw3")
    # Otherwise, now is the end of some of them, and their bars would hide the others.
    for run in data.tests:
        run.began, run.ended = min(run.began, BEGAN + 20), min(run.ended, BEGAN + 31)
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(render(data, about=HOSTILE + "/a-long-path" * 20, finished=False))
    return path


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_can_be_read(chrome: Chrome, page: Path, width: int, scheme: str) -> None:
    open_page(chrome, page, width, dark=scheme == "dark")
    for details in chrome.find_elements(By.CSS_SELECTOR, "details"):
        chrome.execute_script("arguments[0].open = true", details)
    assert violations(chrome) == []
    # Only the timeline and the tables scroll sideways.
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
    assert console_of(chrome) == []
    assert chrome.title.startswith("Test run of ")


def test_search_and_keys(chrome: Chrome, page: Path) -> None:
    open_page(chrome, page)
    body = chrome.find_element(By.TAG_NAME, "body")
    drawing = chrome.find_element(By.ID, "drawing")
    for key, width in (("+", "200%"), ("+", "400%"), ("-", "200%"), ("0", "100%")):
        body.send_keys(key)
        assert drawing.get_attribute("width") == width
    for button, width in (("in", "200%"), ("out", "100%"), ("in", "200%"), ("all", "100%")):
        chrome.find_element(By.ID, button).click()
        assert drawing.get_attribute("width") == width
    body.send_keys("/")
    search = chrome.switch_to.active_element
    assert search.get_attribute("id") == "search"
    search.send_keys("number[7]")
    assert chrome.find_element(By.ID, "found").text == "1 test"
    rows = chrome.find_elements(By.CSS_SELECTOR, "#tests tbody tr")
    assert [row.is_displayed() for row in rows].count(True) == 1
    # One for the test and five for its guest stay bright.
    bright = chrome.find_elements(By.CSS_SELECTOR, "rect:not(.off)")
    assert {str(bar.get_attribute("data-w")).partition("[")[0] for bar in bright} >= {"tests/test_it.py::test_number"}
    assert len(bright) < len(chrome.find_elements(By.CSS_SELECTOR, "rect")) / 4
    search.send_keys(Keys.BACKSPACE * len("number[7]"))
    assert chrome.find_element(By.ID, "found").text == ""
    assert all(row.is_displayed() for row in rows)
    assert console_of(chrome) == []


def test_bar_leads_to_its_test(chrome: Chrome, page: Path) -> None:
    open_page(chrome, page)
    chrome.find_element(By.CSS_SELECTOR, "svg a rect[data-w$='number[5]']").click()
    row = chrome.find_element(By.CSS_SELECTOR, "tr:target")
    assert "test_number[5]" in row.text
    # The fourth failure is folded, and opens if a link leads to it.
    details = chrome.find_elements(By.CSS_SELECTOR, "details")[-1]
    chrome.execute_script("arguments[0].open = false", details)
    chrome.find_element(By.CSS_SELECTOR, f"#tests a[href='#{details.get_attribute('id')}']").click()
    WebDriverWait(chrome, 10).until(lambda _: details.get_attribute("open") is not None)


def test_page_of_2000_tests_opens_within_a_second(chrome: Chrome, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(render(run_of(2000, workers=4), about="", finished=True))
    # Whatever else the host does makes it only longer.
    seconds: list[float] = []
    while not seconds or (min(seconds) >= 1 and len(seconds) < 10):
        seconds.append(opening_seconds(chrome, page))
    assert min(seconds) < 1, seconds
