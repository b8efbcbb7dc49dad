from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_xhyve.model.completed import Completed
from pytest_xhyve.model.errors import BootFailed, CommandFailed, XhyveError
from pytest_xhyve.model.evidence import Evidence
from pytest_xhyve.model.text import is_number, printable, printable_but_coloured

TITLE = "\x1b]0;title\x07\x1b[2J"
SHOWN = r"\x1b]0;title\x07\x1b[2J"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (TITLE, SHOWN),
        ("caf\udce9", r"caf\udce9"),
        ("a\r\nb\rc\td\n", "a\nb\\x0dc\td\n"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\x9b2J\x7f\0", r"\x9b2J\x7f\x00"),
        ("\u061ca \ufff9b\ufffb \U000e0041", r"\u061ca \ufff9b\ufffb \U000e0041"),
        ("café ✓ 日本", "café ✓ 日本"),
        # What a CI system would take out of its log.
        ("a\n::error::b\n \u3000::stop-commands::x", "a\n\\x3a:error::b\n \u3000\\x3a:stop-commands::x"),
        ("a ##vso[task.setvariable variable=PATH]/x", r"a \x23#vso[task.setvariable variable=PATH]/x"),
        ("##[add-path]/x ##TeamCity[a] ###[b]", r"\x23#[add-path]/x \x23#TeamCity[a] #\x23#[b]"),
        ("test_a.py::test_b ## heading # [x]\n:: 1", "test_a.py::test_b ## heading # [x]\n\\x3a: 1"),
    ],
)
def test_harmful_characters_are_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_can_be_printed_and_does_nothing(text: str) -> None:
    for shown in (printable(text), printable_but_coloured(text)):
        shown.encode()
        assert printable(shown.replace("\x1b", "")) == shown.replace("\x1b", "")
    assert "\x1b" not in printable(text)
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize("command", ["::", "##[", "##vso[", "##teamcity["])
@given(before=st.text(max_size=4), between=st.text(max_size=4))
def test_no_text_becomes_a_command_of_a_ci_system(command: str, before: str, between: str) -> None:
    half = len(command) // 2
    for text in (f"{before}{command}", f"{before}{command[:half]}{between}{command[half:]}", f"\n{between}{command}"):
        for shown in (printable(text), printable_but_coloured(text)):
            assert not any(line.lstrip().startswith("::") for line in shown.split("\n"))
            assert not re.search(r"##(vso|teamcity)?\[", shown, re.IGNORECASE)


def test_colours_alone_stay() -> None:
    assert printable_but_coloured(f"\x1b[31mred\x1b[0m{TITLE}") == f"\x1b[31mred\x1b[0m{SHOWN}"


def test_every_error_is_printable() -> None:
    """Whatever a message contains: its class makes it harmless."""
    completed = Completed("x", 1, TITLE, "caf\udce9", 0.1)
    boot = BootFailed("guest x did not boot", console=TITLE)
    for error in (XhyveError(TITLE), CommandFailed(completed), boot):
        assert SHOWN in str(error)
        assert "\x1b" not in str(error)
    assert SHOWN in completed.report()
    assert completed.stdout == TITLE


def test_section_of_a_report_is_printable() -> None:
    assert SHOWN in Evidence("x", (), TITLE, TITLE).section()


def test_what_merely_looks_like_a_number_is_none() -> None:
    assert all(map(is_number, ("0", "12", "9" * 18)))
    assert not any(map(is_number, ("", "²", "٣", "-1", " 1", "1_0", "9" * 19)))
