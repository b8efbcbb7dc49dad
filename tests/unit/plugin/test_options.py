"""The plugin's options: help, invalid values, paths, images that multiply tests."""

from __future__ import annotations

import os
from textwrap import dedent

import pytest
from fake_images import write_image

from pytest_xhyve.model.options import OPTIONS

HEAVY = ("paramiko", "yaml", "tenacity", "psutil", "filelock", "cryptography", "click", "platformdirs")

# All modules of the package that a run without guests imports. Add one only if every run needs it.
LIGHT = {
    "pytest_xhyve.model",
    "pytest_xhyve.model.options",
    "pytest_xhyve.plugin",
    "pytest_xhyve.plugin.fixtures",
    "pytest_xhyve.plugin.hookspecs",
    "pytest_xhyve.plugin.pytest_internals",
    "pytest_xhyve.plugin.stash",
    "pytest_xhyve.plugin.wanted",
}


def test_help_lists_every_option(pytester: pytest.Pytester) -> None:
    text = pytester.runpytest_subprocess("--help").stdout.str()
    for option in OPTIONS:
        assert option.flag in text
        assert option.ini in text
    assert "disposable Linux guests" in text


def test_fixtures_are_explained(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--fixtures")
    for line in (
        "xhyve_image*session scope*",
        "xhyve_guest -- *",
        "*A Linux machine of the test's own*",
        "xhyve_class_guest*class scope*",
        "xhyve_ssh -- *",
        "xhyve_guest_factory*session scope*",
    ):
        result.stdout.fnmatch_lines([line])
    assert "_xhyve_fleet" not in result.stdout.str()


def test_run_without_guests_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
        import sys

        def test_plain():
            assert not {{name for name in {HEAVY!r} if name in sys.modules}}
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    assert "xhyve:" not in result.stdout.str()


@pytest.mark.usefixtures("entry_points")
def test_run_without_guests_imports_few_modules_of_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
        import sys

        def test_plain():
            ours = {{name for name in sys.modules if name.startswith("pytest_xhyve.")}}
            assert ours == {LIGHT!r}
        """
    )
    pytester.runpytest_subprocess("-p", "no:xdist").assert_outcomes(passed=1)


@pytest.mark.usefixtures("entry_points")
def test_can_be_turned_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_guest(xhyve_guest): pass")
    result = pytester.runpytest_inprocess("-p", "no:xhyve")
    result.stdout.fnmatch_lines(["*fixture 'xhyve_guest' not found*"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--xhyve-image=debian21"], "*image 'debian21' not found; did you mean debian12*"),
        (["--xhyve-image="], "*--xhyve-image: the value is empty*"),
        (["--xhyve-memory=12x"], "*--xhyve-memory: '12x' is not a size*"),
        (["--xhyve-cpus=0"], "*--xhyve-cpus: '0' is not a whole number from 1*"),
        (["--xhyve-accel=kwm"], "*'kwm' is not one of auto, kvm, hvf, tcg; did you mean kvm*"),
        (["--xhyve-timeout-factor=0"], "*--xhyve-timeout-factor: '0' is not a number above 0*"),
        (["-o", "xhyve_boot_timeout=soon"], "*ini value xhyve_boot_timeout: 'soon' is not a number above 0*"),
    ],
)
def test_wrong_value_ends_the_run_before_any_test(
    pytester: pytest.Pytester, arguments: list[str], message: str
) -> None:
    pytester.makepyfile("def test_plain(): pass")
    result = pytester.runpytest_inprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
    assert "Traceback" not in result.stderr.str()


def test_path_in_the_ini_file_is_relative_to_it(pytester: pytest.Pytester) -> None:
    write_image(pytester.path)
    pytester.makeini("[pytest]\nxhyve_image = ubuntu18.img\n")
    below = pytester.mkdir("below")
    (below / "test_it.py").write_text(
        "def test_it(xhyve_image, tmp_path, monkeypatch):\n"
        f"    assert xhyve_image == {str(pytester.path / 'ubuntu18.img')!r}\n"
    )
    pytester.chdir()
    pytester.runpytest_inprocess("-p", "no:cacheprovider", "below").assert_outcomes(passed=1)
    os.chdir(below)
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_path_on_the_command_line_is_relative_to_the_folder_of_the_call(pytester: pytest.Pytester) -> None:
    write_image(pytester.path)
    pytester.makepyfile(f"def test_it(xhyve_image): assert xhyve_image == {str(pytester.path / 'ubuntu18.img')!r}")
    pytester.runpytest_inprocess("--xhyve-image=ubuntu18.img").assert_outcomes(passed=1)


SEVERAL = """
    import pytest

    def test_plain(): pass

    def test_guest(xhyve_guest): pass

    def test_session(xhyve_session_guest): pass

    @pytest.mark.xhyve(image="tiny")
    def test_marked(xhyve_guest): pass

    @pytest.mark.parametrize("xhyve_guest", ["debian12", "tiny"], indirect=True)
    def test_parametrized(xhyve_guest): pass

    @pytest.mark.parametrize("xhyve_guest", [{"memory": "1G"}], indirect=True)
    def test_big(xhyve_guest): pass
"""


def test_two_images_run_each_test_on_either(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=SEVERAL)
    result = pytester.runpytest_inprocess("--collect-only", "-q", "--xhyve-image=debian12", "--xhyve-image=tiny")
    assert sorted(result.stdout.lines[: result.stdout.lines.index("")]) == [
        "test_it.py::test_big[debian12-xhyve_guest0]",
        "test_it.py::test_big[tiny-xhyve_guest0]",
        "test_it.py::test_guest[debian12]",
        "test_it.py::test_guest[tiny]",
        "test_it.py::test_marked",
        "test_it.py::test_parametrized[debian12]",
        "test_it.py::test_parametrized[tiny]",
        "test_it.py::test_plain",
        "test_it.py::test_session[debian12]",
        "test_it.py::test_session[tiny]",
    ]


@pytest.mark.parametrize(
    ("names", "values", "runs"),
    [
        ("'xhyve_guest'", "[pytest.param({'cpus': 2}, id='two')]", ["debian12-two", "tiny-two"]),
        ("'xhyve_guest,n'", "[({'cpus': 2}, 1)]", ["debian12-xhyve_guest0-1", "tiny-xhyve_guest0-1"]),
        ("['n', 'xhyve_guest']", "[pytest.param(1, 'tiny')]", ["1-tiny"]),
        ("['xhyve_guest']", "[({'image': 'tiny'},)]", ["xhyve_guest0"]),
        ("'n,m'", "zip([1, 2], [3, 4])", ["debian12-1-3", "debian12-2-4", "tiny-1-3", "tiny-2-4"]),
        # An iterator can be read once, by pytest, so its keys are unknown.
        ("'xhyve_guest'", "iter([{'cpus': 2}])", ["xhyve_guest0"]),
    ],
)
def test_parametrize_in_its_forms(pytester: pytest.Pytester, names: str, values: str, runs: list[str]) -> None:
    guest = "indirect=['xhyve_guest']" if "xhyve_guest" in names else ""
    others = [name for name in ("n", "m") if name in names.replace("xhyve_guest", "")]
    pytester.makepyfile(
        test_it=f"""
        import pytest

        @pytest.mark.parametrize({names}, {values}, {guest})
        def test_guest(xhyve_guest, {", ".join(others)}): pass
        """
    )
    result = pytester.runpytest_inprocess("--collect-only", "-q", "--xhyve-image=debian12", "--xhyve-image=tiny")
    assert sorted(result.stdout.lines[: len(runs)]) == [f"test_it.py::test_guest[{run}]" for run in runs]
    assert result.stdout.lines[len(runs)] == ""


# What a test or its conftest.py may do, and on which images it then runs.
CHOSEN = {
    # Each chooses the image itself, in the hook of a conftest.py or of its module.
    "hook_image/conftest.py": """
        def pytest_generate_tests(metafunc):
            metafunc.parametrize("xhyve_image", ["tiny"], indirect=True, scope="session")
        """,
    "hook_image/test_it.py": "def test_it(xhyve_guest): pass",
    "hook_guest/test_it.py": """
        def pytest_generate_tests(metafunc):
            metafunc.parametrize("xhyve_guest", [{"image": "tiny"}, "debian12"], ids=["a", "b"], indirect=True)

        def test_it(xhyve_guest): pass
        """,
    "hook_cluster/test_it.py": """
        import pytest

        def pytest_generate_tests(metafunc):
            metafunc.parametrize("xhyve_guests", [{"a": "tiny", "b": {"image": "debian12"}}], ids=["ab"], indirect=True)

        # The parameter is in the place of the marker.
        @pytest.mark.xhyve_guests(nodes=2)
        def test_it(xhyve_guests): pass
        """,
    "mark_cluster/test_it.py": """
        import pytest

        @pytest.mark.parametrize("xhyve_guests", [{"a": "tiny"}, {"b": "debian12"}], ids=["a", "b"], indirect=True)
        def test_it(xhyve_guests): pass
        """,
    # Each leaves the image to the run.
    "open_guest/test_it.py": """
        def pytest_generate_tests(metafunc):
            metafunc.parametrize("xhyve_guest", [{"cpus": 1}], ids=["one"], indirect=True)

        def test_it(xhyve_guest): pass
        """,
    "open_cluster/test_it.py": """
        import pytest

        @pytest.mark.xhyve_guests(a="tiny")
        @pytest.mark.parametrize("xhyve_guests", [{"a": "tiny", "b": None}, 2], ids=["ab", "two"], indirect=True)
        def test_it(xhyve_guests): pass
        """,
    "open_use/test_it.py": """
        import pytest

        @pytest.fixture(scope=lambda fixture_name, config: "class")
        def dynamic(xhyve_class_guest): return xhyve_class_guest

        @pytest.mark.usefixtures("dynamic")
        @pytest.mark.parametrize("number", range(2))
        class TestIt:
            def test_one(self, number): pass
        """,
}


def test_images_of_a_test_that_may_choose_its_own(pytester: pytest.Pytester) -> None:
    for name, text in CHOSEN.items():
        path = pytester.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(dedent(text))
    options = ("--import-mode=importlib", "--xhyve-image=debian12", "--xhyve-image=tiny")
    result = pytester.runpytest_inprocess("--collect-only", "-q", *options)
    assert result.ret == 0
    runs: dict[str, list[str]] = {}
    for line in result.stdout.lines[: result.stdout.lines.index("")]:
        folder, _, rest = line.partition("/")
        runs.setdefault(folder, []).append(rest.rpartition("[")[2].rstrip("]"))
    assert {folder: sorted(found) for folder, found in runs.items()} == {
        "hook_image": ["tiny"],
        "hook_guest": ["a", "b"],
        "hook_cluster": ["ab"],
        "mark_cluster": ["a", "b"],
        "open_guest": ["one-debian12", "one-tiny"],
        "open_cluster": ["debian12-ab", "debian12-two", "tiny-ab", "tiny-two"],
        "open_use": ["debian12-0", "debian12-1", "tiny-0", "tiny-1"],
    }


def test_guests_of_an_image_are_used_one_after_the_other(pytester: pytest.Pytester) -> None:
    """So each shared guest starts once for each image, and each template is used before the next one."""
    pytester.makepyfile(
        test_it="""
        import pytest

        class TestShared:
            @pytest.mark.parametrize("number", range(2))
            def test_class(self, xhyve_class_guest, number): pass

            def test_module(self, xhyve_class_guest, xhyve_module_guest): pass

        @pytest.mark.usefixtures("xhyve_session_guest")
        def test_session(xhyve_module_guest): pass

        @pytest.mark.xhyve_guests(nodes=2)
        def test_cluster(xhyve_guests): pass

        def test_own(xhyve_guest): pass
        """
    )
    result = pytester.runpytest_inprocess("--setup-plan", "--xhyve-image=debian12", "--xhyve-image=tiny")
    lines = [line.split() for line in result.stdout.lines if line.strip().startswith("SETUP ")]
    started = [name for _, _, name, *_ in lines if name.startswith("xhyve_") and "guest" in name]
    each = [f"xhyve_{name}" for name in ("class_guest", "module_guest", "session_guest", "guests", "guest")]
    assert started == each * 2
    images = [name for _, _, name, *_ in lines if name.startswith("xhyve_image[")]
    assert images == ["xhyve_image['debian12']", "xhyve_image['tiny']"]


def test_ids_can_be_chosen_by(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=SEVERAL)
    result = pytester.runpytest_inprocess("--collect-only", "-q", "-k", "test_parametrized and tiny")
    result.stdout.fnmatch_lines(["test_it.py::test_parametrized?tiny?"])


def test_overridden_image_is_not_multiplied(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="session")
        def xhyve_image():
            return "tiny"
        """
    )
    pytester.makepyfile(test_it="def test_guest(xhyve_guest): pass")
    result = pytester.runpytest_inprocess("--collect-only", "-q", "--xhyve-image=debian12", "--xhyve-image=tiny")
    assert result.stdout.lines[0] == "test_it.py::test_guest"
