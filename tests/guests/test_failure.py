"""What a user sees when a test or a guest fails, and what is left to look at.

What does not depend on the hypervisor is run under QEMU only, on restored guests, as a user has it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from chosen import Chosen
from click.testing import CliRunner
from waiting import becomes

from pytest_xhyve.cli.commands import main
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import GuestRecord, live_guests, reap_kept

pytest_plugins = ["pytester"]


def kept_guests() -> list[GuestRecord]:
    return [guest for guest in live_guests(Home.of_user().folder("runs")) if guest.kept]


@pytest.fixture(autouse=True)
def nothing_is_kept() -> object:
    """What a run has kept goes, whatever becomes of its test."""
    yield
    reap_kept(Home.of_user().folder("runs"))
    assert not kept_guests()


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


@pytest.mark.run_under("warm", "xhyve")
def test_failed_tests_show_their_guests(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    """One run that has it all: the report, JUnit XML, HTML, artifacts, and guests that can be logged in to."""
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


@pytest.mark.run_under("warm")
def test_each_rerun_has_artifacts_of_its_own(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    # As pytest-rerunfailures does it, which would put a server into every run that is started here.
    pytester.makeconftest(
        """
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
            if any(report.failed for report in reports):
                reports = runtestprotocol(item, log=False, nextitem=nextitem)
            for report in reports:
                item.ihook.pytest_runtest_logreport(report=report)
            return True
        """
    )
    pytester.makepyfile(
        test_it="""
        import pathlib

        def test_flaky(xhyve_guest):
            runs = pathlib.Path("runs")
            with runs.open("a") as file:
                file.write("x")
            words = f"run-{runs.read_text()}-said"
            xhyve_guest.run(f"echo {words} > /dev/console")
            xhyve_guest.console.wait_for(words)
            assert len(runs.read_text()) > 1
        """
    )
    options = (*hypervisor.options, "--xhyve-image=tiny", "--xhyve-artifacts=art")
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=1)
    assert what_consoles_said(pytester.path) == {
        "test_it.py-test_flaky": ["run-x-said"],
        "test_it.py-test_flaky.rerun-1": ["run-xx-said"],
    }
    # What an earlier run has left is none of the next one's.
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=1)
    assert what_consoles_said(pytester.path) == {"test_it.py-test_flaky": ["run-xxx-said"]}


_SAID = re.compile(r"^run-x+-said", re.MULTILINE)


def what_consoles_said(folder: Path) -> dict[str, list[str]]:
    """What the test wrote to the console, by its folder of artifacts."""
    found = {path.name: path.glob("*/console.log") for path in (folder / "art").iterdir()}
    return {name: [word for path in paths for word in _SAID.findall(path.read_text())] for name, paths in found.items()}


def test_final_outcome_counts(pytester: pytest.Pytester) -> None:
    """Whether a test has failed is what pytest says in the end, not what was raised."""
    pytester.makepyfile(
        test_it="""
        import unittest

        import pytest

        class TestCase(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def guest(self, xhyve_guest): pass

            def test_unittest_fails(self):
                self.assertEqual(1, 2)

        @pytest.mark.xfail(strict=True)
        def test_passes_unexpectedly(xhyve_guest): pass

        @pytest.mark.xfail(False, reason="not here")
        def test_is_not_expected_to_fail(xhyve_guest):
            raise ValueError("as it shall")

        def test_says_that_it_is_expected(xhyve_guest):
            pytest.xfail("not yet")

        def test_skips(xhyve_guest):
            raise unittest.SkipTest("not here")
        """
    )
    result = pytester.runpytest_subprocess("--xhyve-image=tiny", "--xhyve-keep=on-failure")
    result.assert_outcomes(failed=3, xfailed=1, skipped=1)
    assert result.stdout.str().count("Captured log xhyve: ") == 3
    assert {guest.kept and guest.kept["by"].rpartition(":")[2] for guest in kept_guests()} == {
        "test_unittest_fails",
        "test_passes_unexpectedly",
        "test_is_not_expected_to_fail",
    }


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


def test_guest_is_kept_under_a_name_that_is_used_again(pytester: pytest.Pytester) -> None:
    """Also when pytest is told to end, each is listed once."""
    pytester.makepyfile(
        test_it="""
        import pytest

        pytestmark = pytest.mark.xhyve(name="web")

        @pytest.mark.parametrize("number", range(2))
        def test_web(xhyve_guest, number):
            assert xhyve_guest.run("hostname").stdout == "web\\n"

        def test_ends():
            pytest.exit("enough")
        """
    )
    result = pytester.runpytest_subprocess("--xhyve-image=tiny", "--xhyve-keep=always", "-n", "1")
    assert result.stdout.str().count("web (tiny), for test_it.py::test_web[") == 2
    assert [guest.name for guest in kept_guests()] == ["web", "web"]
    for guest in kept_guests():
        done = subprocess.run([*guest.ssh, "hostname"], check=True, capture_output=True, text=True)
        assert done.stdout == "web\n"


def test_kept_guests_give_way(pytester: pytest.Pytester) -> None:
    """Tests that need a slot get it, and the guest of the first failure stays."""
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_fails(xhyve_guest, number):
            raise ValueError("as it shall")
        """
    )
    result = pytester.runpytest_subprocess(
        "--xhyve-image=tiny", "--xhyve-keep=on-failure", "--xhyve-max-guests=2", "-n", "2"
    )
    result.assert_outcomes(failed=4)
    assert "gave up the guest tiny-" in result.stdout.str() or len(kept_guests()) == 2
    assert 1 <= len(kept_guests()) <= 2


NO_ROOT = """
    from dataclasses import replace

    def pytest_xhyve_machine(machine, request):
        words = {"test_hangs": "root=/dev/nothing", "test_panics": "rdinit=/nothing"}.get(request.node.name)
        return None if words is None else replace(machine, cmdline=f"{machine.cmdline} {words}")
"""


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
            "*give it longer: --xhyve-boot-timeout or --xhyve-timeout-factor=2",
            "* Captured log xhyve: tiny-* setup *",
            "image tiny (*",
            "E *KernelPanic: the kernel of guest * panicked: Kernel panic - not syncing: *",
            "*it got as far as: kernel (*",
        ]
    )
    consoles = list((pytester.path / "art").glob("*/*/console.log"))
    assert len(consoles) == 2
    assert all("Linux version" in console.read_text() for console in consoles)
    # The one that may come up after all; the other one's kernel is dead.
    (kept,) = kept_guests()
    assert kept.kept is not None
    assert kept.kept["by"] == "test_it.py::test_hangs"


def test_guest_is_alive_in_the_debugger(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_fails(xhyve_guest):\n    raise ValueError('as it shall')")
    result = pytester.run(
        *(sys.executable, "-m", "pytest", "--xhyve-image=tiny", "--pdb"),
        stdin=b"p 'alive: ' + xhyve_guest.run('uname -s').stdout\nc\n",
    )
    result.stdout.fnmatch_lines(["*xhyve: guest tiny-0 is alive: ssh -F *", "*'alive: Linux\\n'*"])
    assert not kept_guests()


def test_leaks_are_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import subprocess, sys

        def test_leaks(xhyve_guest):
            place = xhyve_guest.console.path.parent
            lock = open(next((place.parents[2] / "slots").glob("*.lock")))
            sys.leaked = lock
            program = "import time; time.sleep(600)"
            stray = subprocess.Popen(
                [sys.executable, "-c", program, str(place / "hypervisor.pid")], start_new_session=True
            )
            (place.parents[2] / "stray").write_text(str(stray.pid))
        """
    )
    options = ["--xhyve-image=tiny"]
    for strict, code in (((), 0), (("--xhyve-strict",), 1)):
        result = pytester.runpytest_subprocess(*options, *strict)
        stray = Home.of_user().path / "stray"
        os.kill(int(stray.read_text()), signal.SIGKILL)
        stray.unlink()
        result.assert_outcomes(passed=1)
        assert result.ret == code
        result.stdout.fnmatch_lines(
            ["*left behind by guests*", "process *hypervisor.pid", "lock *held by this process"]
        )


def test_clean_run_is_not_accused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_passes(xhyve_guest, xhyve_session_guest): pass")
    pytester.makeini("[pytest]\nxhyve_strict = true\n")
    result = pytester.runpytest_subprocess("--xhyve-image=tiny", "-n", "1")
    assert result.ret == 0
    assert "left behind" not in result.stdout.str()


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


def test_kill_9_spares_what_was_kept(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import os, signal

        def test_fails(xhyve_guest):
            raise ValueError("as it shall")

        def test_dies(xhyve_guest):
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    pytester.runpytest_subprocess("--xhyve-image=tiny", "--xhyve-keep=on-failure")
    runs = Home.of_user().folder("runs")
    assert becomes(lambda: [guest.name for guest in live_guests(runs) if guest.owner != os.getpid()] == ["tiny-0"], 5)
    (guest,) = kept_guests()
    assert subprocess.run([*guest.ssh, "true"], check=False).returncode == 0
    assert json.loads((guest.folder / "guest.json").read_text())["kept"]["by"] == "test_it.py::test_fails"
