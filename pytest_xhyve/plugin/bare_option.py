"""Options that may be given without a value, as in ``pytest --xhyve-save-failures test_it.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_xhyve.model.options import Option
from pytest_xhyve.plugin.pytest_internals import add_to_run


def separate_from_tests(options: Sequence[Option], config: pytest.Config) -> None:
    """Let pytest run what argparse took for the value of an option: it takes the next word, whatever that is.

    Args:
        options: those that may be given without a value, and were given; pytest has a list of the values of each.
            Afterwards, each has one value: the last one.
        config: has the options.
    """
    for option in options:
        values = config.getoption(option.ini)
        tests = [value for value in values if _names_tests(value)]
        setattr(config.option, option.ini, option.value_if_bare if values[-1] in tests else values[-1])
        add_to_run(config, tests)


def _names_tests(word: str) -> bool:
    path = Path(word.partition("::")[0])
    if path.suffix == ".py" or "::" in word:
        return path.exists()
    return path.is_dir() and (any(path.glob("test_*.py")) or any(path.glob("*/test_*.py")))
