"""What a user sees when a test or a guest fails: the report, and what else shows a failed test's guests."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import other_plugins
import pytest
from chosen import Chosen
from click.testing import CliRunner
from kept import kept_guests

from pytest_xhyve.cli.commands import main
from pytest_xhyve.host.runs import GuestRecord

pytest_plugins = ["pytester"]


pytestmark = pytest.mark.usefixtures("nothing_is_kept")


FAILING = """
    import pytest

    def test_fails(xhyve_guest, tmp_path):
        xhyve_guest.run("echo said-by-the-test > /dev/console && echo brought > /tmp/file")
        xhyve_guest.get("/tmp/file", tmp_path)
        xhyve_guest.console.wait_for("said-by-the-test")
        assert xhyve_guest.run("echo out; echo err >&2; exit 3", check=False).returncode == 0

    def test_passes(xhyve_guest):
        pass

    @pytest.fixture(scope="module")
    def prepared(xhyve_module_guest):
        xhyve_module_guest.run("echo said-in-set-up > /dev/console")
        xhyve_module_guest.console.wait_for("said-in-set-up")
        xhyve_module_guest.run("ls /nothing-here")

    def test_set_up_fails(prepared):
        pass

    @pytest.fixture
    def taken_down(xhyve_module_guest):
        yield
        raise RuntimeError("in teardown")

    def test_both_fail(taken_down):
        raise ValueError("in the test")

    def test_block(xhyve_guest_factory):
        with xhyve_guest_factory(name="web"):
            # With a ring of causes, which pytest shows once.
            error, other = KeyError("in the block"), ValueError("the other")
            error.__cause__, other.__cause__ = other, error
            raise error

    @pytest.mark.xfail
    def test_is_expected_to_fail(xhyve_guest_factory):
        with xhyve_guest_factory(name="expected"):
            raise KeyError("as expected")
"""


@pytest.mark.thorough_under("xhyve")
@pytest.mark.run_under("warm", "xhyve")
def test_failed_tests_show_their_guests(
    pytester: pytest.Pytester, hypervisor: Chosen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run that has it all: the report, JUnit XML, HTML, artifacts, and guests that can be logged in to."""
    # With pytest-html.
    monkeypatch.setenv("PYTEST_ADDOPTS", other_plugins.WITHOUT)
    pytester.makepyfile(test_it=FAILING)
    result = pytester.runpytest_subprocess(
        *hypervisor.options,
        "--xhyve-image=tiny",
        "--xhyve-keep=on-failure",
        "--xhyve-artifacts=art",
        "--junitxml=junit.xml",
        *("-o", "junit_logging=log"),
        "--html=report.html",
        "--self-contained-html",
    )
    result.assert_outcomes(passed=1, failed=3, errors=2, xfailed=1)
    text = result.stdout.str()
    start = "restored from a template, ready after" if hypervisor.start == "auto" else "booted, ready after"
    for words in (
        r"Captured log xhyve: tiny-0 call",
        r"Captured log xhyve: web call",
        r"Captured log xhyve: tiny-\d setup",
        r"Captured log xhyve: tiny-\d teardown",
        rf"; {start}",
        r"  said-by-the-test\n",
        r"  said-in-set-up\n",
        r"ValueError: in the test",
        r"RuntimeError: in teardown",
    ):
        assert re.search(words, text), words
    # The user's line, and none of ours.
    assert ">       xhyve_module_guest.run(" in text
    assert "pytest_xhyve/" not in re.sub(r"ssh -F \S+", "", text)
    see_reports(pytester.path)
    see_artifacts(pytester.path / "art")
    see_kept(text)
    see_command_line()


def see_reports(folder: Path) -> None:
    cases = {case.get("name"): case for case in ET.parse(folder / "junit.xml").iter("testcase")}  # noqa: S314
    (out,) = cases["test_fails"].iter("system-out")
    assert "said-by-the-test" in (out.text or "")
    assert "said-in-set-up" in "".join(out.text or "" for out in cases["test_set_up_fails"].iter("system-out"))
    properties = {name.get("name"): name.get("value") for name in cases["test_passes"].iter("property")}
    assert (properties["xhyve_guests"] or "").startswith("tiny-")
    assert properties["xhyve_image"] == "tiny"
    assert float(properties["xhyve_seconds"] or "") > 0
    assert re.search(r"clone=\d\.\d\d .*login=\d\.\d\d", properties["xhyve_phases"] or "")
    assert {"xhyve_hypervisor", "xhyve_acceleration", "xhyve_start"} <= properties.keys()
    assert "said-by-the-test" in (folder / "report.html").read_text()


def see_artifacts(folder: Path) -> None:
    tests = {path.name.removeprefix("test_it.py-"): path for path in folder.iterdir()}
    assert {"test_fails", "test_passes", "test_set_up_fails", "test_both_fail", "test_block"} <= tests.keys()
    (guest,) = tests["test_fails"].iterdir()
    assert "said-by-the-test" in (guest / "console.log").read_text()
    assert "Linux version" in (guest / "journal.log").read_text()
    assert (guest / "made.txt").read_text().startswith("image tiny (")
    assert (guest / "fetched" / "file").read_text() == "brought\n"
    (shared,) = tests["test_both_fail"].iterdir()
    # What the guest had said before is another test's.
    assert "said-in-set-up" not in (shared / "console.log").read_text()
    assert [path.name for path in tests["test_block"].iterdir()] == ["web"]


def see_command_line() -> None:
    """Whoever comes later finds them, and takes them away."""
    names = [guest.name for guest in kept_guests()]
    shown = CliRunner().invoke(main, ["ps"]).output
    for guest in kept_guests():
        assert f"  kept for test_it.py::{guest.kept and guest.kept['by'].rpartition(':')[2]}: ssh -F " in shown
    assert {guest["name"] for guest in json.loads(CliRunner().invoke(main, ["ps", "--json"]).output)} >= set(names)
    assert json.loads(CliRunner().invoke(main, ["reap", "--json"]).output) == {"removed": [], "guests": names}
    assert not kept_guests()


def see_kept(text: str) -> None:
    section = text[text.index(" kept guests ") :]
    lines = re.findall(r"^  (ssh -F .+)$", section, re.MULTILINE)
    assert len(lines) == len(kept_guests()) == 3
    for line in lines:
        # As it is pasted into a shell.
        done = subprocess.run(f"{line} uname -s", shell=True, check=True, capture_output=True, text=True)  # noqa: S602
        assert done.stdout == "Linux\n"
    assert {shlex.join(guest.ssh) for guest in kept_guests()} == set(lines)
    assert [guest.kept and guest.kept["by"].rpartition(":")[2] for guest in sorted_by_age(kept_guests())] == [
        "test_fails",
        "test_block",
        "test_set_up_fails",
    ]


def sorted_by_age(guests: list[GuestRecord]) -> list[GuestRecord]:
    return sorted(guests, key=lambda guest: guest.kept["since"] if guest.kept else 0)


def test_each_test_is_told_of_its_own_guests(pytester: pytest.Pytester) -> None:
    """One after the other, where a shared fixture has parameters; and those that a test asks for by name."""
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.parametrize("xhyve_module_guest", [{"name": "first"}, {"name": "second"}], indirect=True)
        def test_one(xhyve_module_guest):
            assert False

        def test_asks(request):
            request.getfixturevalue("xhyve_session_guest")

        def test_asks_again(request):
            request.getfixturevalue("xhyve_session_guest")
            assert False
        """
    )
    result = pytester.runpytest_subprocess("--xhyve-image=tiny", "--junitxml=junit.xml", "--xhyve-artifacts=art")
    result.assert_outcomes(failed=3, passed=1)
    guests = {
        case.get("name"): [each.get("value") for each in case.iter("property") if each.get("name") == "xhyve_guests"]
        for case in ET.parse(pytester.path / "junit.xml").iter("testcase")  # noqa: S314
    }
    (shared,) = guests["test_asks"]
    assert guests == {
        "test_one[xhyve_module_guest0]": ["first"],
        "test_one[xhyve_module_guest1]": ["second"],
        "test_asks": [shared],
        "test_asks_again": [shared],
    }
    text = result.stdout.str()
    assert [text.count(f"Captured log xhyve: {name} call") for name in ("first", "second", shared)] == [1, 1, 1]
    folders = sorted(path.name for path in (pytester.path / "art").glob("test_it.py-test_one*/*"))
    assert folders == ["first", "second"]


NO_ROOT = """
    from dataclasses import replace

    def pytest_xhyve_machine(machine, request):
        words = {"test_hangs": "root=/dev/nothing", "test_panics": "rdinit=/nothing"}.get(request.node.name)
        return None if words is None else replace(machine, cmdline=f"{machine.cmdline} {words}")
"""


@pytest.mark.thorough
@pytest.mark.run_under("warm")
def test_guest_that_does_not_come_up(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    pytester.makeconftest(NO_ROOT)
    pytester.makepyfile(test_it="def test_hangs(xhyve_guest): pass\n\ndef test_panics(xhyve_guest): pass")
    result = pytester.runpytest_subprocess(
        *hypervisor.options,
        "--xhyve-image=tiny",
        "--xhyve-accel=tcg",
        # Four times as long, as the CPU is emulated.
        "--xhyve-boot-timeout=2",
        "--xhyve-artifacts=art",
        "--xhyve-keep=on-failure",
    )
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "E *: tiny * 8 s*",
            "*it got as far as: * (firmware * s · kernel * s*)",
            "*last on the console:",
            "*what may help:",
            "*give it more time: --xhyve-boot-timeout or --xhyve-timeout-factor=2",
            "* Captured log xhyve: tiny-* setup *",
            "image tiny (*",
            "E *KernelPanic: the kernel of guest * panicked: Kernel panic - not syncing: *",
            "*it got as far as: kernel (*",
        ]
    )
    consoles = list((pytester.path / "art").glob("*/*/console.log"))
    assert len(consoles) == 2
    assert all("Linux version" in console.read_text() for console in consoles)
    # The one that may still boot; the other one's kernel is dead.
    (kept,) = kept_guests()
    assert kept.kept is not None
    assert kept.kept["by"] == "test_it.py::test_hangs"


def test_end_of_the_block_does_not_hide_what_failed_in_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        def test_fails(xhyve_guest_factory):
            with xhyve_guest_factory(name="web") as guest:
                remove = guest.remove

                def fail():
                    from pytest_xhyve import XhyveError
                    guest.remove = remove
                    raise XhyveError("cannot be ended")

                guest.remove = fail
                raise ValueError("what counts")
        """
    )
    result = pytester.runpytest_subprocess("--xhyve-image=tiny")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *ValueError: what counts", "E *guest web could not be removed: cannot be ended"])
