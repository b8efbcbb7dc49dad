"""Shared guests that are reset: invalid requests, and the place of the reset among the fixtures. It starts no guest."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import cast

import pytest
from fake_images import write_image

from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.base import Hypervisor
from pytest_xhyve.model.errors import ConfigurationError, NotSupported
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

PLAN = re.compile(r"SETUP\s+\w (\S+)")
INTERNAL = {"_xhyve_fleet", "_xhyve_start", "xhyve_image"}


def plan(pytester: pytest.Pytester, *options: str) -> list[str]:
    """The fixtures of a run in their order, and its tests."""
    result = pytester.runpytest_inprocess("--setup-plan", "-p", "no:cacheprovider", *options)
    assert result.ret == 0, result.stdout.str()
    found = []
    for line in result.stdout.lines:
        if match := PLAN.search(line):
            found.append(match[1].partition("[")[0])
        elif "::test_" in line:
            found.append(line.split("::")[-1].split()[0])
    return [name for name in found if name not in INTERNAL]


def test_guest_is_reset_between_shared_fixtures_and_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(autouse=True)
        def own_autouse(): pass

        @pytest.fixture
        def own(xhyve_class_guest): pass

        @pytest.fixture(scope="module", autouse=True)
        def shared_autouse(): pass

        @pytest.fixture(scope="class")
        def shared(xhyve_class_guest): pass

        @pytest.mark.xhyve(reset=True)
        class TestIt:
            @pytest.mark.parametrize("number", [1, 2])
            def test_it(self, own, shared, number, tmp_path): pass

        def test_plain(tmp_path): pass

        def test_shared(xhyve_module_guest): pass
        """
    )
    names = [name for name in plan(pytester) if not name.startswith("tmp_path")]
    its_own = ["_xhyve_reset", "own_autouse", "own", "number", "test_it"]
    assert [name.partition("[")[0] for name in names] == [
        *["shared_autouse", "xhyve_class_guest", "shared"],
        *its_own,
        *its_own,
        *["own_autouse", "test_plain"],
        *["xhyve_module_guest", "own_autouse", "test_shared"],
    ]


@pytest.mark.parametrize(
    ("guest", "marks"),
    [
        ("xhyve_module_guest", "pytestmark = pytest.mark.xhyve(reset=True)"),
        ("xhyve_class_guest", "pytestmark = pytest.mark.xhyve(reset=True)"),
        ("xhyve_session_guest", "pytest_plugins = ()"),
    ],
)
def test_scopes(pytester: pytest.Pytester, guest: str, marks: str) -> None:
    if guest == "xhyve_session_guest":
        pytester.makeconftest(
            """
            import pytest

            def pytest_sessionstart(session):
                session.add_marker(pytest.mark.xhyve(reset=True))
            """
        )
    pytester.makepyfile(f"import pytest\n{marks}\ndef test_it({guest}): pass\n")
    assert plan(pytester)[:2] == [guest, "_xhyve_reset"]


def test_reset_in_a_parameter(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("xhyve_session_guest", [{"reset": True}, "tiny"], indirect=True, scope="session")
        def test_it(xhyve_session_guest): pass
        """
    )
    assert plan(pytester).count("_xhyve_reset") == 1


@pytest.mark.parametrize(
    ("tests", "words"),
    [
        (
            """
            @pytest.mark.xhyve(reset=True)
            def test_it(xhyve_guest): pass
            """,
            "*test_it: reset=True is for guests that tests share*xhyve_guest is always fresh*",
        ),
        (
            """
            @pytest.mark.parametrize("xhyve_guest", [{"reset": True}], indirect=True)
            def test_it(xhyve_guest): pass
            """,
            "*xhyve_guest is always fresh*",
        ),
        (
            """
            @pytest.mark.xhyve(reset="yes")
            def test_it(xhyve_guest): pass
            """,
            "*@pytest.mark.xhyve: reset: 'yes' is not True or False*",
        ),
        (
            """
            @pytest.mark.xhyve(reset=True)
            class TestIt:
                def test_it(self, xhyve_module_guest): pass
            """,
            "*reset=True) on a class does not reach xhyve_module_guest*pytestmark*",
        ),
        (
            """
            @pytest.mark.xhyve(reset=True)
            def test_it(xhyve_module_guest): pass
            """,
            "*on one test does not reach xhyve_module_guest*",
        ),
    ],
    ids=["the test's own", "the test's own, by parameter", "no flag", "a class in a module", "a test in a module"],
)
def test_reset_without_effect_is_an_error(pytester: pytest.Pytester, tests: str, words: str) -> None:
    pytester.makepyfile("import pytest\n" + dedent(tests))
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([words])


def test_own_guests_beside_a_shared_one_are_not_reset(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.xhyve(reset=True)

        def test_shared(xhyve_module_guest): pass

        def test_own(xhyve_guest): pass

        class TestBoth:
            @pytest.mark.parametrize("xhyve_class_guest", [{"reset": False}], indirect=True)
            def test_both(self, xhyve_class_guest, xhyve_module_guest): pass
        """
    )
    assert plan(pytester).count("_xhyve_reset") == 2


def test_hypervisor_that_cannot_save(tmp_path: Path, new_home: Home) -> None:
    manifest = write_image(tmp_path)
    xhyve = cast("Hypervisor", SimpleNamespace(snapshotter=None, info=SimpleNamespace(name="xhyve")))
    with (
        closing(Fleet(Settings(), new_home, hypervisor=xhyve)) as fleet,
        pytest.raises(NotSupported, match=r"xhyve cannot save a running machine.*\n  use --xhyve-hypervisor=qemu"),
    ):
        fleet.start(ForegroundRequest(GuestSpec(image=manifest, reset=True)))


def test_reset_is_a_bool() -> None:
    assert GuestSpec.parse(reset=True).with_defaults(GuestSpec(image="tiny")) == GuestSpec(image="tiny", reset=True)
    assert GuestSpec.parse(reset=None).reset is None
    with pytest.raises(ConfigurationError, match="reset: 1 is not True or False"):
        GuestSpec.parse(reset=1)
