"""An option whose value may be left out does not take what pytest is to run."""

from __future__ import annotations

import pytest

from pytest_xhyve.plugin.stash import settings_of

pytest_plugins = ["pytester"]


@pytest.mark.parametrize(
    ("words", "folder", "runs"),
    [
        (["--xhyve-save-failures", "test_it.py"], "xhyve-failures", ["test_it.py"]),
        (["--xhyve-save-failures", "test_it.py::test_a"], "xhyve-failures", ["test_it.py::test_a"]),
        (["--xhyve-save-failures", "sub"], "xhyve-failures", ["sub"]),
        (["--xhyve-save-failures", "sub", "test_it.py"], "xhyve-failures", ["sub", "test_it.py"]),
        (["test_it.py", "--xhyve-save-failures", "sub"], "xhyve-failures", ["sub", "test_it.py"]),
        (["test_it.py", "--xhyve-save-failures"], "xhyve-failures", ["test_it.py"]),
        (["--xhyve-save-failures", "-q", "test_it.py"], "xhyve-failures", ["test_it.py"]),
        (["--xhyve-save-failures=there", "test_it.py"], "there", ["test_it.py"]),
        (["--xhyve-save-failures", "there", "test_it.py"], "there", ["test_it.py"]),
        (["--xhyve-save-failures", "test_it.py", "--xhyve-save-failures=there"], "there", ["test_it.py"]),
        (["--xhyve-save-failures=there", "test_it.py", "--xhyve-save-failures"], "xhyve-failures", ["test_it.py"]),
    ],
)
def test_next_word_is_run(pytester: pytest.Pytester, words: list[str], folder: str, runs: list[str]) -> None:
    pytester.makepyfile(test_it="def test_a(): pass")
    pytester.mkdir("sub").joinpath("test_other.py").touch()
    config = pytester.parseconfigure(*words)
    assert settings_of(config).save_failures == pytester.path / folder
    assert sorted(config.args) == runs


@pytest.mark.thorough
def test_workers_run_it(pytester: pytest.Pytester) -> None:
    """Each worker of pytest-xdist parses the command line again."""
    pytester.makepyfile(test_it="def test_a(): pass", test_other="def test_b(): pass")
    result = pytester.runpytest_subprocess("-n2", "--xhyve-save-failures", "test_it.py")
    result.assert_outcomes(passed=1)
