"""The page of a run with guests."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]


def test_page_shows_guests_of_all_workers(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so does the summary of a job of GitHub Actions."""
    summary = pytester.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_passes(xhyve_guest, number):
            xhyve_guest.run("sleep 0.2")

        def test_fails(xhyve_guest):
            xhyve_guest.run("echo '</pre><script>alert(1)</script>'; printf '\\\\033[2J\\\\377'")
            xhyve_guest.run("exit 3")
        """
    )
    options = ("--xhyve-image=tiny", "--xhyve-report=page.html", "--xhyve-save-failures", "-n2")
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=2, failed=1)
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
    # Each guest was started, used and removed.
    assert text.count('class="remove"') == 3
    assert text.count('class="use"') == 3
    assert '<th scope="row">tiny</th><td>warm</td><td class="n">3</td>' in text
