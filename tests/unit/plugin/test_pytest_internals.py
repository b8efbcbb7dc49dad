"""What the plugin reads from private parts of pytest: one test for each function, so that a new pytest shows itself."""

from __future__ import annotations

from textwrap import dedent

import pytest

from pytest_xhyve.plugin import pytest_internals
from pytest_xhyve.plugin.pytest_internals import (
    add_to_run,
    crash_location,
    fixture_definitions,
    fixture_names,
    is_parameter_set,
    parameters,
)

FIXTURES = """
    import pytest
    from pytest_xhyve.plugin.pytest_internals import (
        finish_fixture, fixture_values, is_set_up, item_of, requested_fixture_names, suspended_capture
    )

    @pytest.fixture(scope="module")
    def shared(request): return item_of(request).name

    @pytest.fixture
    def own(shared): return shared

    @pytest.fixture
    def late(): pass
"""


def run(pytester: pytest.Pytester, tests: str, *arguments: str, passed: int = 1) -> pytest.RunResult:
    """Run *tests* with the fixtures above; *passed* of them pass, and none fails."""
    pytester.makepyfile(dedent(FIXTURES) + dedent(tests))
    result = pytester.runpytest_inprocess(*arguments)
    result.assert_outcomes(passed=passed)
    return result


def collect(pytester: pytest.Pytester, test: str) -> pytest.Item:
    return pytester.getitem(dedent(FIXTURES) + dedent(test), "test_it")


def test_each_function_has_a_test() -> None:
    functions = [
        name
        for name, value in vars(pytest_internals).items()
        if callable(value) and getattr(value, "__module__", "") == pytest_internals.__name__
    ]
    assert functions
    assert [name for name in functions if f"test_{name}" not in globals()] == []


def test_fixture_names(pytester: pytest.Pytester) -> None:
    item = collect(pytester, "def test_it(own, request): request.getfixturevalue('late')")
    assert {"own", "shared"} <= set(fixture_names(item))
    assert "late" not in fixture_names(item)


def test_fixture_names_of_an_item_that_is_not_a_function(pytester: pytest.Pytester) -> None:
    class Plain(pytest.Item):
        def runtest(self) -> None: ...

    module = pytester.getmodulecol("")
    assert fixture_names(Plain.from_parent(module, name="plain")) == ()


def test_set_fixture_names(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from pytest_xhyve.plugin.pytest_internals import set_fixture_names

        def pytest_collection_modifyitems(items):
            set_fixture_names(items[0], ["late", *items[0].fixturenames])
        """
    )
    result = run(pytester, "def test_it(own): pass", "--setup-show")
    lines = [line.split()[2] for line in result.stdout.lines if line.strip().startswith("SETUP") and " F " in line]
    assert lines == ["late", "own"]


def test_requested_fixture_names(pytester: pytest.Pytester) -> None:
    run(
        pytester,
        """
        def test_it(own, request):
            assert "late" not in requested_fixture_names(request.node)
            request.getfixturevalue("late")
            assert {"own", "shared", "late"} <= set(requested_fixture_names(request.node))
        """,
    )


def test_parameters(pytester: pytest.Pytester) -> None:
    items = pytester.getitems(
        """
        import pytest

        @pytest.mark.parametrize(("late", "number"), [("a", 1), ("b", 2)], indirect=["late"])
        def test_it(late, number): pass

        def test_plain(): pass

        @pytest.fixture
        def late(request): pass
        """
    )
    assert [parameters(item) for item in items] == [{"late": "a", "number": 1}, {"late": "b", "number": 2}, {}]


def test_parameters_so_far(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from pytest_xhyve.plugin.pytest_internals import parameters_so_far

        def pytest_generate_tests(metafunc):
            assert parameters_so_far(metafunc) == []
            metafunc.parametrize("direct", [1, 2])
            metafunc.parametrize("own", ["x"], indirect=True)
            assert parameters_so_far(metafunc) == [{"direct": 1, "own": "x"}, {"direct": 2, "own": "x"}]
        """
    )
    run(pytester, "def test_it(direct, own): pass", passed=2)


def test_fixture_definitions(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(dedent(FIXTURES))
    item = pytester.getitem("import pytest\n@pytest.fixture\ndef own(own): pass\ndef test_it(own): pass", "test_it")
    assert [definition.baseid for definition in fixture_definitions(item, "own")] == ["", item.parent.nodeid]  # type: ignore[union-attr]
    # The test may request it by `getfixturevalue`.
    assert [definition.argname for definition in fixture_definitions(item, "late")] == ["late"]
    assert fixture_definitions(item, "unknown") == ()


def test_fixture_definitions_of_a_direct_parameter(pytester: pytest.Pytester) -> None:
    item = pytester.getitem(
        "import pytest\n@pytest.mark.parametrize('number', [1])\ndef test_it(number): pass", "test_it[1]"
    )
    assert [definition.scope for definition in fixture_definitions(item, "number")] == ["function"]


def test_item_of(pytester: pytest.Pytester) -> None:
    run(
        pytester,
        """
        def test_first(shared, request):
            assert shared == "test_first"
            assert item_of(request) is request.node

        def test_second(own):
            assert own == "test_first"
        """,
        passed=2,
    )


def test_is_set_up(pytester: pytest.Pytester) -> None:
    run(
        pytester,
        """
        def test_it(own, request):
            assert is_set_up(request.node, "shared")
            assert is_set_up(request.node, "own")
            assert not is_set_up(request.node, "late")
            request.getfixturevalue("late")
            assert is_set_up(request.node, "late")

        def test_after(request):
            assert is_set_up(request.node, "shared")
            assert not is_set_up(request.node, "own")
        """,
        passed=2,
    )


def test_fixture_values(pytester: pytest.Pytester) -> None:
    run(
        pytester,
        """
        @pytest.fixture
        def failing(): raise ValueError

        def test_it(shared, request):
            assert fixture_values(request.node, "shared") == [shared]
            assert fixture_values(request.node, "late") == []
            request.getfixturevalue("late")
            assert fixture_values(request.node, "late") == [None]
            with pytest.raises(ValueError):
                request.getfixturevalue("failing")
            assert fixture_values(request.node, "failing") == []
        """,
    )


def test_finish_fixture(pytester: pytest.Pytester) -> None:
    run(
        pytester,
        """
        torn_down = []

        @pytest.fixture(scope="module")
        def above(shared):
            yield f"above {shared}"
            torn_down.append("above")

        def test_it(above):
            assert above == "above test_it"

        def test_after(request, above):
            assert above == "above test_it"
            finish_fixture(request.node, "shared")
            assert torn_down == ["above"]
            assert not is_set_up(request.node, "shared")

        def test_last(above):
            assert above == "above test_last"
        """,
        passed=3,
    )


def test_is_parameter_set() -> None:
    assert is_parameter_set(pytest.param("tiny", id="small"))
    assert not is_parameter_set(("tiny", (), "small"))


@pytest.mark.parametrize(("named", "runs"), [((), ["test_a.py"]), (("test_b.py",), ["test_a.py", "test_b.py"])])
def test_add_to_run(pytester: pytest.Pytester, named: tuple[str, ...], runs: list[str]) -> None:
    for name in "abc":
        pytester.makepyfile(**{f"test_{name}": "def test_it(): pass"})
    config = pytester.parseconfig(*named)
    add_to_run(config, ["test_a.py"])
    assert config.args == runs
    add_to_run(config, [])
    assert config.args == runs


def test_suspended_capture(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        def test_it(request):
            print("captured before")
            with suspended_capture(request.config):
                print("on the terminal")
            print("captured after")
        """,
    )
    assert "on the terminal" in result.stdout.str()
    assert "captured" not in result.stdout.str()


def test_suspended_capture_without_the_capture_plugin(pytester: pytest.Pytester) -> None:
    run(pytester, "def test_it(request):\n    with suspended_capture(request.config): pass", "-p", "no:capture")


def test_crash_location(pytester: pytest.Pytester) -> None:
    item = collect(pytester, "def test_it(): pass")
    location = crash_location(item, "BootTimeout: no answer")
    assert (location.path, location.message) == (item.location[0], "BootTimeout: no answer")
    source = item.path.read_text().splitlines()
    assert source[location.lineno - 1] == "def test_it(): pass"
