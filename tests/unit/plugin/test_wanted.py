"""The expected guests of the next tests. No guest is started."""

from __future__ import annotations

import json
from textwrap import dedent

import pytest

CONFTEST = """
    import json
    import pathlib

    import pytest

    from pytest_xhyve.plugin.forecast import Forecast

    def shown(spec):
        keys = ("image", "cpus", "memory", "start")
        return {key: getattr(spec, key) for key in keys if getattr(spec, key) is not None}

    # Instead of running the tests, record the guests that are expected before each.
    def pytest_runtestloop(session):
        forecast = Forecast()
        guesses = {}
        for item, nextitem in zip(session.items, [*session.items[1:], None]):
            guesses[item.name] = [shown(spec) for spec in forecast.update(item, nextitem)]
        pathlib.Path("guesses.json").write_text(json.dumps(guesses))
        return True
"""


@pytest.fixture
def guess(pytester: pytest.Pytester) -> Guess:
    return Guess(pytester)


class Guess:
    """The expected guests before each of some tests."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester

    def __call__(self, tests: str, *options: str, conftest: str = "") -> dict[str, list[dict[str, object]]]:
        self._pytester.makeconftest(dedent(CONFTEST) + dedent(conftest))
        self._pytester.makepyfile(test_it="import pytest\n" + dedent(tests))
        result = self._pytester.runpytest_inprocess("--xhyve-image=tiny", *options)
        assert result.ret == 0, result.stdout.str()
        guesses: dict[str, list[dict[str, object]]] = json.loads((self._pytester.path / "guesses.json").read_text())
        return guesses


TINY = {"image": "tiny"}


def test_order_markers_parameters_and_fixtures_of_fixtures(guess: Guess) -> None:
    guesses = guess(
        """
        @pytest.fixture
        def server(xhyve_guest): pass

        def test_plain(): pass

        def test_through(server): pass

        @pytest.mark.xhyve(cpus=2, memory="192M", start="cold")
        def test_marked(xhyve_ssh): pass

        @pytest.mark.parametrize("xhyve_guest", ["debian12", {"memory": "1G"}], indirect=True)
        def test_parametrized(xhyve_guest): pass
        """
    )
    marked = {"image": "tiny", "cpus": 2, "memory": 192 << 20, "start": "cold"}
    last = [{"image": "debian12"}, {"image": "tiny", "memory": 1 << 30}]
    assert guesses == {
        "test_plain": [TINY, marked, *last],
        "test_through": [TINY, marked, *last],
        "test_marked": [marked, *last],
        "test_parametrized[debian12]": last,
        "test_parametrized[xhyve_guest1]": last[1:],
    }


def test_each_image_and_either_start(guess: Guess) -> None:
    guesses = guess("def test_it(xhyve_guest): pass", "--xhyve-image=debian12", "--xhyve-start=both")
    (first, *_) = guesses.values()
    assert sorted(first, key=str) == [
        {"image": image, "start": start} for image in ("debian12", "tiny") for start in ("cold", "warm")
    ]


def test_start_in_a_parameter_with_an_id(guess: Guess) -> None:
    tests = """
        @pytest.mark.parametrize("xhyve_guest", [pytest.param({"start": "cold"}, id="slow")], indirect=True)
        def test_it(xhyve_guest): pass
    """
    assert guess(tests, "--xhyve-start=both") == {"test_it[slow]": [TINY | {"start": "cold"}]}


def test_shared_guest_is_expected_once(guess: Guess) -> None:
    guesses = guess(
        """
        pytestmark = pytest.mark.xhyve(cpus=3)

        @pytest.mark.xhyve(cpus=2)
        class TestClass:
            def test_a(self, xhyve_class_guest, xhyve_session_guest): pass
            def test_b(self, xhyve_class_guest, xhyve_module_guest): pass

        def test_c(xhyve_module_guest, xhyve_session_guest): pass
        def test_d(xhyve_class_guest): pass
        """
    )
    by_class, by_module = {"image": "tiny", "cpus": 2}, {"image": "tiny", "cpus": 3}
    assert guesses == {
        "test_a": [TINY, by_class, by_module, by_module],
        "test_b": [by_module, by_module],
        "test_c": [by_module],
        "test_d": [by_module],
    }


def test_fixture_that_wraps_the_plugins_is_expected_too(guess: Guess) -> None:
    conftest = """
        @pytest.fixture
        def xhyve_guest(xhyve_guest):
            return xhyve_guest
    """
    assert guess("def test_it(xhyve_guest): pass", conftest=conftest) == {"test_it": [TINY]}


@pytest.mark.parametrize(
    ("tests", "conftest"),
    [
        ("@pytest.mark.xhyve(name='web')\ndef test_it(xhyve_guest): pass", ""),
        ("@pytest.mark.skip\ndef test_it(xhyve_guest): pass", ""),
        ("@pytest.mark.xhyve(reset=True)\nclass TestIt:\n    def test_it(self, xhyve_class_guest): pass", ""),
        ("@pytest.mark.parametrize('xhyve_guest', ['tiny'])\ndef test_it(xhyve_guest): pass", ""),
        ("def test_it(xhyve_guest_factory): pass", ""),
        ("def test_it(xhyve_guest): pass", "@pytest.fixture\ndef xhyve_guest(): pass"),
        ("def test_it(xhyve_guest): pass", "@pytest.fixture(scope='session')\ndef xhyve_image(): return 'debian12'"),
        ("def test_it(xhyve_guest): pass", "def pytest_xhyve_machine(machine, request): pass"),
    ],
    ids=["named", "skipped", "reset", "not indirect", "factory", "guest overridden", "image overridden", "hook"],
)
def test_guest_is_not_expected(guess: Guess, tests: str, conftest: str) -> None:
    assert list(guess(tests, conftest=conftest).values()) == [[]]


def test_hook_of_another_folder_does_not_count(guess: Guess, pytester: pytest.Pytester) -> None:
    hook = pytester.mkdir("folder") / "conftest.py"
    hook.write_text("def pytest_xhyve_machine(machine, request): pass")
    hook.with_name("test_in.py").write_text("def test_in(xhyve_guest): pass")
    assert guess("def test_it(xhyve_guest): pass") == {"test_in": [TINY], "test_it": [TINY]}


def test_marker_overrules_an_overridden_image(guess: Guess) -> None:
    conftest = "@pytest.fixture(scope='session')\ndef xhyve_image(): return 'debian12'"
    tests = "@pytest.mark.xhyve(image='tiny')\ndef test_it(xhyve_guest): pass"
    assert guess(tests, conftest=conftest) == {"test_it": [TINY]}


@pytest.mark.parametrize(
    "options", [(), pytest.param(("--xhyve-prewarm=0", "-p", "no:timeout"), marks=pytest.mark.thorough)]
)
def test_prewarming_is_off_unless_asked_for(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    pytester.makepyfile(
        """
        import sys
        import threading

        def test_plain():
            assert not {"pytest_xhyve.plugin.prewarm", "pytest_xhyve.plugin.forecast"} & set(sys.modules)
            assert threading.active_count() == 1
        """
    )
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=1)


@pytest.mark.parametrize("value", ["-1", "1.5", "some"])
def test_invalid_number_is_an_error(pytester: pytest.Pytester, value: str) -> None:
    result = pytester.runpytest_inprocess(f"--xhyve-prewarm={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --xhyve-prewarm: '{value}' is not a whole number from 0"])
