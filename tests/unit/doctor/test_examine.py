"""The doctor as a whole: the order of its findings, its report, its command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest
from mac_answers import DF, GOOD, SYSCTL_CPU, XHYVE, MakeMac, Recorded, call_doctor

from pytest_xhyve.doctor import host, mac
from pytest_xhyve.doctor.examine import examine
from pytest_xhyve.doctor.findings import Check, Finding, gather
from pytest_xhyve.doctor.programs import CommandResult
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.model.errors import XhyveError


def test_all_is_well(make_mac: MakeMac) -> None:
    findings = gather(mac.checks(make_mac()))
    assert {finding.level for finding in findings} == {"ok"}
    assert {finding.title for finding in findings} == {
        "processor", "macOS", "file system", "vfkit", "xhyve", "xhyve's signature", "right to use vmnet", "vmnet",
        "DHCP server", "firewall", "DHCP leases", "Local Network privacy", "VPN",
    }  # fmt: skip


def test_nothing_answers(make_mac: MakeMac) -> None:
    """Where no program of macOS can be run, there are findings all the same."""
    silent = {line: CommandResult(None, "", "No such file or directory") for line in GOOD}
    intel = {SYSCTL_CPU: GOOD[SYSCTL_CPU]}
    findings = gather(mac.checks(make_mac({**silent, **intel})))
    # Of one nothing is asked, and the other is not installed.
    asked = [finding for finding in findings if finding.title not in ("Local Network privacy", "vfkit")]
    assert {finding.level for finding in asked} <= {"problem", "warning"}


def test_worst_comes_first_and_a_failing_check_is_a_finding() -> None:
    def look() -> Iterator[Finding]:
        yield Finding("one", "ok", "fine")
        yield Finding("two", "problem", "bad", "mend it")
        raise OSError(5, "Input/output error")

    def fail() -> Iterator[Finding]:
        raise XhyveError("no\n  idea")
        yield

    findings = gather([Check("first", look), Check("second", fail)])
    assert [(finding.level, finding.title) for finding in findings] == [
        ("problem", "two"),
        ("warning", "first"),
        ("warning", "second"),
        ("ok", "one"),
    ]
    assert next(findings[2].lines()) == "WARNING  second: the check failed: no idea; fix that, and check again:"


@pytest.mark.parametrize(("level", "fix"), [("ok", "do"), ("warning", "")])
def test_what_is_wrong_has_a_cure_and_nothing_else(level: str, fix: str) -> None:
    with pytest.raises(ValueError, match="a fix"):
        Finding("x", level, "y", fix)  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_programs")
def test_a_mac_with_xhyve_alone_runs_guests(new_home: Home) -> None:
    folder = host.nearest_folder(new_home.path)
    # Its owner and mode are looked at, so it is a file that is there; root need not ask sudo.
    here = {line.replace(XHYVE, sys.executable): answer for line, answer in GOOD.items()}
    programs = Recorded({**here, f"/bin/df -P {folder}": GOOD[DF]}, {"xhyve": sys.executable})
    report = examine(platform="darwin", home=new_home, programs=programs)
    assert report.findings[0].title == "QEMU"
    assert report.runs_under == ("xhyve",)
    assert list(report.lines())[-1] == "guests can run here, under xhyve"


@pytest.mark.usefixtures("no_programs")
def test_nothing_of_xhyve_is_asked_elsewhere(new_home: Home) -> None:
    report = examine(platform="linux", home=new_home, programs=Recorded({}))
    assert report.runs_under == ()
    assert list(report.lines())[-1] == "guests cannot run here"


@pytest.mark.usefixtures("no_programs")
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_nobody_knows_the_cache_folder(platform: str) -> None:
    report = examine(platform=platform, home=None, programs=Recorded({**GOOD, "/bin/df -P /": GOOD[DF]}))
    [finding] = [finding for finding in report.findings if finding.title == "cache folder"]
    assert finding.level == "problem"
    assert HOME_VARIABLE in finding.fix
    assert report.runs_under == ()


def test_lines_are_as_wide_as_the_terminal() -> None:
    finding = Finding("title", "warning", "seen " * 30, f"do {'this ' * 30}")
    *detail, fix = finding.lines(60)
    assert detail[0].startswith("WARNING  title: seen")
    assert len(detail) > 2
    assert all(len(line) <= 60 and line.startswith(" " * 9) for line in detail[1:])
    # It is for pasting.
    assert fix.endswith("this this ")
    assert len(list(finding.lines())) == 2


@pytest.mark.thorough
@pytest.mark.usefixtures("new_home_with_proofs")
def test_command_with_what_is_here() -> None:
    result = call_doctor()
    assert result.exit_code == 0
    assert "QEMU: " in result.output
    assert result.output.endswith("guests can run here, under qemu\n")


@pytest.mark.usefixtures("no_programs", "new_home")
def test_command_where_no_guest_can_run() -> None:
    result = call_doctor()
    assert result.exit_code == 1
    assert "PROBLEM  QEMU: QEMU not found" in result.output
    assert "\n           sudo apt install" in result.output
    assert "Traceback" not in result.output
    as_json = call_doctor("--json")
    assert as_json.exit_code == 1
    said = json.loads(as_json.output)
    assert said["runs_under"] == []
    assert said["findings"][0]["title"] == "QEMU"
    assert said["findings"][0]["blocks"] == ["qemu"]


@pytest.mark.parametrize("arguments", [["--yes"], ["--json", "--fix-vpn"]])
def test_options_that_do_not_go_together(arguments: list[str]) -> None:
    assert call_doctor(*arguments).exit_code == 2
