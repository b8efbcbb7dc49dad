"""What users import from ``pytest_xhyve``."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import pytest_xhyve

LAZY = """
import sys
import pytest_xhyve
ours = lambda: sorted(name for name in sys.modules if name.startswith("pytest_xhyve."))
assert ours() == [], ours()
pytest_xhyve.Nic
assert "pytest_xhyve.model.machine" in ours()
assert "pytest_xhyve.guest.guest" not in ours()
"""


@pytest.mark.parametrize("name", pytest_xhyve.__all__)
def test_public_name_is_the_class_that_its_module_defines(name: str) -> None:
    exported = getattr(pytest_xhyve, name)
    assert isinstance(exported, type)
    assert exported.__name__ == name
    # An error names the package as its module, since reports show what users import.
    if exported.__module__ != "pytest_xhyve":
        assert getattr(import_module(exported.__module__), name) is exported


def test_types_are_exported_lazily() -> None:
    subprocess.run([sys.executable, "-c", LAZY], check=True)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'guset'"):
        _ = pytest_xhyve.guset
