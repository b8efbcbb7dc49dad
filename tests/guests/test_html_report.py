"""The page of a run with guests."""

from __future__ import annotations

import re
from pathlib import Path

import other_plugins
import pytest
from browser import WIDTHS, browser, console_of, needed, open_page, violations
from selenium.webdriver.common.by import By

pytest_plugins = ["pytester"]


def test_page_shows_guests_of_all_workers(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so does the summary of a job of GitHub Actions."""
    summary = pytester.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    # These plugins are left out elsewhere.
    monkeypatch.setenv("PYTEST_ADDOPTS", other_plugins.WITHOUT)
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_passes(xhyve_guest, number):
            xhyve_guest.run("sleep 0.2")

        def test_fails(xhyve_guest):
            xhyve_guest.run("echo '</pre><script>alert(1)</script>'; printf '\\\\033[2J\\\\377'")
            xhyve_guest.run("printf '\\033[31mred\\033[0m\\n' >/dev/console")
            xhyve_guest.run("echo written to the journal >/dev/kmsg")
            xhyve_guest.console.wait_for("written to the journal", timeout=30)
            xhyve_guest.run("exit 3")
        """
    )
    options = ("--xhyve-image=tiny", "--xhyve-report=page.html", "--xhyve-save-failures", "-n2")
    others = ("--html=other.html", "--alluredir=allure")
    pytester.runpytest_subprocess(*options, *others).assert_outcomes(passed=2, failed=1)
    text = (pytester.path / "page.html").read_text()
    assert text.count("<script") == 1
    assert "&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert r"\x1b[2J\udcff" in text
    assert ">exit 3</code>" in text
    assert "exit code 3" in text
    assert "pytest-xhyve resume " in text
    assert "console since it was restored:" in text
    assert {"gw0", "gw1"} <= {worker for worker in ("gw0", "gw1") if f">{worker}</text>" in text}
    markdown = summary.read_text()
    assert "3 x tiny" in markdown
    assert "<summary>test_it.py::test_fails</summary>" in markdown
    assert "Captured log xhyve: tiny-" in markdown
    # The console with its colours, and the journal.
    assert '<span class="c1">red</span>' in text
    assert re.search(r'aria-label="Journal of tiny-\d in test_it.py::test_fails">[^<]*written to the journal', text)
    # The plugins pytest-html and Allure have the same, with no option given.
    consoles = list((pytester.path / "assets").glob("*.txt"))
    assert any("[31mred" in path.read_text() for path in consoles)
    attached = {path.read_text() for path in (pytester.path / "allure").glob("*-attachment.txt")}
    assert any("exit code 3" in content and "$ exit 3" in content for content in attached)
    assert any("written to the journal" in content for content in attached)
    assert any(content.startswith("pytest-xhyve resume ") for content in attached)
    # Each guest was started, used and removed.
    assert text.count('class="remove"') == 3
    assert text.count('class="use"') == 3
    assert '<th scope="row">tiny</th><td>warm</td><td class="n">3</td>' in text


@pytest.mark.thorough
@needed
def test_page_of_four_workers_a_killed_guest_and_a_crash(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """In a browser, on a telephone and on a computer, light and dark."""
    pytester.makepyfile(
        test_it="""
        import os
        import signal

        import pytest

        @pytest.mark.parametrize("number", range(8))
        def test_passes(xhyve_guest, number):
            xhyve_guest.run("sleep 0.2")

        @pytest.mark.parametrize("number", range(2))
        def test_fails(xhyve_guest, number):
            xhyve_guest.run("printf '\\033[31mred\\033[0m\\n' >/dev/console; echo wrong >&2; exit 3")

        def test_guest_is_killed(xhyve_guest):
            xhyve_guest.kill()
            xhyve_guest.run("true")

        def test_worker_is_killed(xhyve_guest):
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    options = ("--xhyve-image=tiny", "--xhyve-report=page.html", "--xhyve-save-failures", "-n4")
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=8, failed=4)
    with browser(tmp_path / "profile") as chrome:
        for width in WIDTHS:
            for dark in (False, True):
                open_page(chrome, pytester.path / "page.html", width, dark=dark)
                chrome.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
                assert violations(chrome) == []
                assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
                assert console_of(chrome) == []
        lanes = {lane.text for lane in chrome.find_elements(By.CSS_SELECTOR, "svg .lane")}
        assert lanes >= {"gw0", "gw1", "gw2", "gw3"}
        counts = [each.text for each in chrome.find_elements(By.CSS_SELECTOR, "ul.counts li")]
        assert sorted(counts) == ["4 failed", "8 passed"]
        failed = "".join(each.text for each in chrome.find_elements(By.CSS_SELECTOR, "details"))
        assert "crashed while running" in failed
        assert failed.count("pytest-xhyve resume ") >= 2
