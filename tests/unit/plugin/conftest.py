"""What the tests of the plugin share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def no_garbage_collection(lean_runs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a configuration that a test makes itself end at once.

    pytest collects garbage five times at its end, to find errors of finalizers. That takes 0.3 s in a process that
    has as many objects as the tests. The runs of pytester leave it out themselves.
    """
    monkeypatch.setenv("PYTEST_ADDOPTS", f"{os.environ['PYTEST_ADDOPTS']} -p no:unraisableexception")
