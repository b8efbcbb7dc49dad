"""What "From the handbook" names is there: each command, each option, each member of a guest."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

import pages
import pytest

from pytest_xhyve import Guest
from pytest_xhyve.cli.commands import main
from pytest_xhyve.guest.console import Console
from pytest_xhyve.model.options import OPTIONS

# Which test runs a command. Those of `guest.…` are in tests/guests/test_from_the_handbook.py.
RUN_BY = {
    "pytest --xhyve-cpus=2 --xhyve-memory=1G": "guests/test_from_the_handbook.py::test_commands",
    "pytest-xhyve boot-files DISK FOLDER": "guests/test_show.py::test_boot_files_are_copied_out",
    "pytest-xhyve build debian12": "images/test_catalog.py::test_is_built",
    "pytest-xhyve doctor --fix-vpn": "unit/doctor/test_vpn.py::test_vpn_is_mended_with_pf_on",
    "pytest-xhyve doctor": "unit/doctor/test_six_macs.py::test_report",
    "pytest-xhyve import DISK": "guests/test_bare_disk.py::test_imported_ahead_of_time",
    "pytest-xhyve reap": "guests/test_from_the_handbook.py::test_commands",
    "pytest-xhyve shell debian12": "guests/test_from_the_handbook.py::test_commands",
    "pytest-xhyve show DISK": "guests/test_show.py::test_show_prints_what_was_found",
}

# Which test shows a row that names no command, by the beginning of its first column.
SHOWN_BY = {
    "leave out `acpi=off`": (
        "unit/hypervisors/test_xhyve_argv.py::test_what_cannot_be_said_is_refused_before_anything_starts"
    ),
    "copy the disk before each experiment": "guests/test_from_the_handbook.py::test_machine_by_its_commands",
    "try another UUID if vmnet refuses": "guests/test_xhyve.py::test_refused_uuid_is_replaced_once_and_for_all",
    "wait until it seems to be ready": "guests/test_from_the_handbook.py::test_machine_by_its_commands",
    "accept an unknown host key": "unit/guest/test_ssh.py::test_unknown_host_key_is_refused",
}

PAGE = pages.TOP / "docs" / "from-the-handbook.md"
# The last column of each row.
NAMED = re.findall(r"\| `([^`]+)` \|$", PAGE.read_text(), re.MULTILINE)
UNNAMED = re.findall(r"^\| ((?!by hand ).+?) \| .+ \| \|$", PAGE.read_text(), re.MULTILINE)


def test_rows_are_found() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "| by hand |" not in line]
    assert len(rows) > 25
    assert len(NAMED) + len(UNNAMED) == len(rows)


def check_tests(names: Iterable[str]) -> None:
    """Check that the tests with these names exist."""
    for test in names:
        file, name = test.split("::")
        assert f"def {name}(" in (pages.TOP / "tests" / file).read_text(), test


def test_each_other_row_is_shown_by_a_test() -> None:
    assert len(UNNAMED) == len(SHOWN_BY)
    for row, words in zip(UNNAMED, SHOWN_BY, strict=True):
        assert row.startswith(words)
    check_tests(SHOWN_BY.values())


def test_each_command_is_run_by_a_test() -> None:
    assert set(RUN_BY) == {line for line in NAMED if not line.startswith("guest.")}
    check_tests(RUN_BY.values())
    run = (pages.TOP / "tests/guests/test_from_the_handbook.py").read_text()
    members = {re.split(r"[(=]", line)[0] for line in NAMED if line.startswith("guest.")}
    assert {member for member in members if member not in run} == set()


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
