"""The command line, run in the tests' own process."""

from __future__ import annotations

import inspect
from typing import Any

from click.testing import CliRunner, Result

from pytest_xhyve.cli.commands import main


def run_separately(*words: str, typed: str = "", **environment: str) -> Result:
    """Run a command whose standard error is not mixed into its standard output."""
    # From click 8.2 on, results have both always.
    options: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    return CliRunner(**options).invoke(main, words, input=typed, env=environment)
