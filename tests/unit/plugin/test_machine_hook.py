"""The hook ``pytest_xhyve_machine``: who is called, in which order, and with what. No guest is started."""

from __future__ import annotations

from textwrap import dedent

import pytest

TEST = """
    from dataclasses import dataclass

    from pytest_xhyve.plugin.machine_hook import machine_hook

    @dataclass(frozen=True)
    class Machine:
        name: str

    def test_it(request):
        hook = machine_hook(request.node, request)
        print("machine:", "no hook" if hook is None else hook(Machine("guest")).name)
"""


def implementation(name: str, *, decorator: str = "", arguments: str = "machine, request") -> str:
    """A conftest.py whose hook appends *name* to the machine's name."""
    return dedent(
        f"""
        from dataclasses import replace

        import pytest

        {decorator}
        def pytest_xhyve_machine({arguments}):
            return replace(machine, name=machine.name + "-{name}")
        """
    )


def machine_of(pytester: pytest.Pytester, conftests: dict[str, str], *arguments: str) -> str:
    """The name of the machine after the hooks of ``outer/inner/test_it.py``, of whose folders some have a conftest.py.

    Args:
        pytester: pytest's.
        conftests: a conftest.py by the folder that it is in.
        arguments: pytest's.
    """
    for folder, text in {"outer/inner": "", "beside": "", **conftests}.items():
        path = pytester.path / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "conftest.py").write_text(text)
    (pytester.path / "outer/inner/test_it.py").write_text(dedent(TEST))
    (pytester.path / "beside/test_beside.py").write_text("def test_beside(): pass")
    result = pytester.runpytest_inprocess("-s", *arguments)
    assert result.ret == 0, result.stdout.str()
    (line,) = [line for line in result.stdout.lines if "machine: " in line]
    return line.partition("machine: ")[2].removesuffix(".")


@pytest.mark.parametrize("arguments", [(), ("outer/inner/test_it.py",), ("beside", "outer/inner")])
def test_each_conftest_gets_the_machine_of_the_one_above(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    conftests = {"outer/inner": implementation("inner"), "outer": implementation("outer"), ".": implementation("top")}
    assert machine_of(pytester, conftests, *arguments) == "guest-top-outer-inner"


def test_conftest_of_another_folder_is_not_called(pytester: pytest.Pytester) -> None:
    conftests = {"beside": implementation("beside"), "outer/inner": implementation("inner")}
    assert machine_of(pytester, conftests) == "guest-inner"


def test_none_leaves_the_machine_unchanged(pytester: pytest.Pytester) -> None:
    conftests = {
        ".": implementation("top"),
        "outer": "def pytest_xhyve_machine(machine): pass",
        "outer/inner": implementation("inner", arguments="machine"),
    }
    assert machine_of(pytester, conftests) == "guest-top-inner"


def test_tryfirst_and_trylast_change_the_order(pytester: pytest.Pytester) -> None:
    conftests = {
        ".": implementation("top", decorator="@pytest.hookimpl(trylast=True)"),
        "outer": implementation("outer"),
        "outer/inner": implementation("inner", decorator="@pytest.hookimpl(tryfirst=True)"),
    }
    assert machine_of(pytester, conftests) == "guest-inner-outer-top"


def test_without_a_hook_there_is_nothing_to_call(pytester: pytest.Pytester) -> None:
    assert machine_of(pytester, {}) == "no hook"


def test_wrapper_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_xhyve_machine():
            return (yield)
        """
    )
    pytester.makepyfile(TEST)
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ConfigurationError: *conftest.py: pytest_xhyve_machine cannot be a hook wrapper"])
