"""An option that may be given without its value, as in ``pytest --xhyve-save-failures test_it.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TO_RUN = "xhyve_to_run"
"""The attribute of pytest's options with the words that `BareOption` did not take."""


class BareOption(argparse.Action):
    """Stores the value, unless that is what pytest is to run: argparse takes the next word for the option's value."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        del parser, option_string
        if isinstance(values, str) and _names_tests(values):
            setattr(namespace, TO_RUN, [values])
            values = self.const
        setattr(namespace, self.dest, values)


def _names_tests(word: str) -> bool:
    path = Path(word.partition("::")[0])
    if path.suffix == ".py" or "::" in word:
        return path.exists()
    return path.is_dir() and (any(path.glob("test_*.py")) or any(path.glob("*/test_*.py")))
