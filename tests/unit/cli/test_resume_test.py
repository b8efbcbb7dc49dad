"""Which test of a bundle runs: the bundle's author may be anyone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_xhyve.cli.resume_test import _find_test
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.failure import Failure

FAILURE = Failure("test_it.py::test_fails[a b]", "call", "it failed", "it failed here", 1.0, "run", (), {})


def test_test_is_found_below_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for place in (project, tmp_path):
        (place / "test_it.py").write_text("")
    monkeypatch.chdir(project)
    assert _find_test(FAILURE) == f"{project.resolve()}/test_it.py::test_fails[a b]"
    (project / "link.py").symlink_to(tmp_path / "test_it.py")
    others = (
        "../test_it.py::test",
        f"{tmp_path}/test_it.py::test",
        "-pevil",
        "link.py::test",
        "",
        "a\0b",
        "none.py",
        "x" * 9999,
    )
    for other in others:
        with pytest.raises(XhyveError, match="is not here"):
            _find_test(replace(FAILURE, test=other))
