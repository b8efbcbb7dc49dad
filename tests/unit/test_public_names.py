"""What users import from ``pytest_xhyve``."""

from __future__ import annotations

import sys

import pytest


def test_types_are_exported_lazily() -> None:
    import pytest_xhyve

    assert pytest_xhyve.Guest.__name__ == "Guest"
    assert set(pytest_xhyve.__all__) <= {*dir(pytest_xhyve), *pytest_xhyve.__all__}
    for name in pytest_xhyve.__all__:
        assert getattr(pytest_xhyve, name).__module__ in sys.modules
    with pytest.raises(AttributeError, match="has no attribute 'guset'"):
        _ = pytest_xhyve.guset
