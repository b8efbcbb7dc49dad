"""Values that somebody may write, for property tests."""

from __future__ import annotations

import os
from dataclasses import fields

from hypothesis import settings
from hypothesis import strategies as st

from pytest_xhyve.model.image import Image

KEYS = tuple(field.name for field in fields(Image) if field.name not in ("manifest", "password"))
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary(),
    lambda children: st.lists(children) | st.dictionaries(st.text() | st.integers(), children),
    max_leaves=5,
)
users = st.from_regex(r"[a-zäß.][\w.@+-]{0,30}\$?", fullmatch=True)
lines = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40)


def examples_factor() -> float:
    """By what a run multiplies the number of examples that a property test states."""
    return float(os.environ.get("EXAMPLES_FACTOR", "0.2"))


def examples(number: int) -> settings:
    """Settings for a test whose examples take long: *number* of them, times `examples_factor`."""
    return settings(max_examples=max(1, round(number * examples_factor())))
