"""The reports of pytest-html and Allure, written by these packages themselves."""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path

import other_plugins
import pytest

from pytest_xhyve.plugin.other_reports import active_reports

pytest_plugins = ["pytester"]

HOSTILE = "</td></script><script>alert(1)</script>"
CONFTEST = f"""
import base64

import pytest

from pytest_xhyve.model.failed_guest import FailedGuest
from pytest_xhyve.model.failure import CommandRecord
from pytest_xhyve.plugin.other_reports import active_reports

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        guest = FailedGuest("web", "\\x1b[31mred {HOSTILE}", "its journal", base64.b64encode(b"a picture").decode())
        command = CommandRecord("web", "false {HOSTILE}", 1, "out", "err", 0.5, 1.0)
        active_reports(item.config).attach(report, [guest], [command], "pytest-xhyve resume it.xhyve")
    return report
"""
TESTS = """
import pytest

def test_fails(): assert False

@pytest.fixture
def broken(): raise ValueError

def test_set_up_fails(broken): pass

def test_passes(): pass
"""


def extras_of(page: Path) -> dict[str, dict[str, str]]:
    """For each test of pytest-html's page, the name and the content of what was added."""
    (blob,) = re.findall(r'data-jsonblob="([^"]*)"', page.read_text())
    tests = json.loads(html.unescape(blob))["tests"]
    return {
        test: {extra["name"]: extra["content"] for entry in entries for extra in entry["extras"]}
        for test, entries in tests.items()
    }


def decoded(url: str) -> str:
    return base64.b64decode(url.partition("base64,")[2]).decode()


@pytest.mark.usefixtures("entry_points")
@pytest.mark.parametrize("workers", ["-n0", pytest.param("-n2", marks=pytest.mark.thorough)])
def test_both_have_all_parts(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    # These plugins are left out elsewhere.
    monkeypatch.setenv("PYTEST_ADDOPTS", other_plugins.WITHOUT)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=TESTS)
    options = ("--html=page.html", "--self-contained-html", "--alluredir=allure", workers)
    pytester.runpytest_subprocess(*options).assert_outcomes(failed=1, errors=1, passed=1)

    extras = extras_of(pytester.path / "page.html")
    names = ["resume its guests", "commands", "console of web", "journal of web", "screen of web"]
    (failed,) = (found for test, found in extras.items() if test.endswith("test_fails"))
    (broken,) = (found for test, found in extras.items() if "test_set_up_fails" in test)
    assert list(failed) == list(broken) == names
    assert not any(found for test, found in extras.items() if test.endswith("test_passes"))
    assert decoded(failed["resume its guests"]) == "pytest-xhyve resume it.xhyve\n"
    assert decoded(failed["console of web"]) == rf"\x1b[31mred {HOSTILE}"
    expected = f"web: exit code 1 after 0.50 s\n$ false {HOSTILE}\nstandard output:\nout\nstandard error:\nerr\n"
    assert decoded(failed["commands"]) == expected
    assert decoded(failed["screen of web"]) == "a picture"
    assert HOSTILE not in (pytester.path / "page.html").read_text()

    results = [json.loads(path.read_text()) for path in (pytester.path / "allure").glob("*-result.json")]
    by_test = {result["name"]: result for result in results}
    for test in ("test_fails", "test_set_up_fails"):
        files = {each["name"]: each for each in by_test[test]["attachments"] if each["name"] in names}
        assert list(files) == names
        assert (files["screen of web"]["type"], files["commands"]["type"]) == ("image/png", "text/plain")
        content = (pytester.path / "allure" / files["console of web"]["source"]).read_text()
        assert content == rf"\x1b[31mred {HOSTILE}"
    assert not by_test["test_passes"].get("attachments")


@pytest.mark.usefixtures("entry_points")
def test_inactive_plugins_get_nothing(pytester: pytest.Pytester) -> None:
    assert active_reports(pytester.parseconfig()) is None
    assert active_reports(pytester.parseconfig("-p", "no:html", "-p", "no:allure_pytest")) is None
