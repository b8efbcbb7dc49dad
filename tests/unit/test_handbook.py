"""What "From the handbook" names is there: each command, each option, each member of a guest."""

from __future__ import annotations

import re
import shlex

import pages
import pytest

from pytest_xhyve import Guest
from pytest_xhyve.cli.commands import main
from pytest_xhyve.guest.console import Console
from pytest_xhyve.model.settings import OPTIONS

PAGE = pages.TOP / "docs" / "from-the-handbook.md"
# The last column of each row.
NAMED = re.findall(r"\| `([^`]+)` \|$", PAGE.read_text(), re.MULTILINE)


def test_rows_are_found() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "| by hand |" not in line]
    assert len(rows) > 25
    assert len(NAMED) > 20


@pytest.mark.parametrize("line", sorted({line for line in NAMED if not line.startswith("guest.")}))
def test_command_is_there(line: str) -> None:
    program, *words = shlex.split(line)
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    if program == "pytest":
        assert options <= {option.flag for option in OPTIONS}
        return
    assert program == "pytest-xhyve"
    command = main.commands[words[0]]
    known = {name for parameter in command.params for name in parameter.opts}
    assert options <= known
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    assert len(words) - 1 - len(options) <= len(arguments)


@pytest.mark.parametrize("line", sorted({line for line in NAMED if line.startswith("guest.")}))
def test_member_of_a_guest_is_there(line: str) -> None:
    _, first, *rest = re.split(r"[.(]", line.partition('"')[0].rstrip("("))
    assert hasattr(Guest, first)
    for name in filter(None, rest):
        if first == "console":
            assert hasattr(Console, name)
