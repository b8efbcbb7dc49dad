"""The summary of a job: Markdown that a guest's text cannot leave."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from pytest_xhyve.model.saved_failure import SavedFailure
from pytest_xhyve.model.times import GuestTimes
from pytest_xhyve.report.markdown import summarize

HOSTILE = "````\n</details>\n\n<script>alert(1)</script>\n~~~\n# heading\n\x1b[2J"


def test_text_of_a_guest_is_code() -> None:
    failed = [(f"test_it.py::test[{HOSTILE}]", HOSTILE), ("test_other", "output")]
    saved = [SavedFailure("test_other", "/a b.xhyve", 1, ("web",), 0.1)]
    text = summarize([GuestTimes("web", "tiny", "test", {"boot": 1.0})], failed, saved)
    tokens = MarkdownIt().parse(text)
    assert [token.content for token in tokens if token.type == "heading_open"] == [""]
    code = [token.content for token in tokens if token.type == "fence"]
    assert len(code) == 4
    assert HOSTILE.replace("\x1b", r"\x1b") + "\n" in code
    assert "pytest-xhyve resume '/a b.xhyve'\n" in code
    markup = "".join(token.content for token in tokens if token.type in ("html_block", "inline"))
    assert "<script" not in markup
    assert markup.count("</details>") == 2
    assert "\x1b" not in text


@pytest.mark.parametrize(
    "character", ["\udce9", *(pytest.param(other, marks=pytest.mark.thorough) for other in ("x", "\x1b", "😀", "`"))]
)
def test_summary_stays_below_the_limit(character: str) -> None:
    """GitHub shows nothing of a longer one; a guest may print what takes more bytes."""
    failed = [(f"test_{number}", character * 20_000) for number in range(100)]
    text = summarize([], failed, [])
    assert len(text.encode()) < 1 << 20
    listed = text.count("<details>")
    assert listed > 10
    assert f"{100 - listed} more failed tests are not listed." in text
