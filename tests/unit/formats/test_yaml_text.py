"""YAML that another person has written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import yaml

from pytest_xhyve.formats.yaml_text import MOST_BYTES, load_foreign


def test_values_are_read() -> None:
    assert load_foreign("a: [1, x, null]\nb: {c: 2001-02-03T04:05:06Z, d: &d [1], e: *d}\n")["b"]["e"] == [1]


@pytest.mark.parametrize("start", ["[", "{a: ", "[a: ", "- ", "? "])
def test_depth_has_a_limit(start: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_foreign(start * (MOST_BYTES // len(start)))


def in_brackets(levels: int) -> str:
    return "[" * levels + "]" * levels


def in_lines(levels: int) -> str:
    return "".join(f"{' ' * level}-\n" for level in range(levels))


@pytest.mark.parametrize("nested", [in_brackets, in_lines])
def test_as_many_levels_are_read_as_all_parsers_can(nested: Callable[[int], str]) -> None:
    value, levels = load_foreign(nested(500)), 0
    while value:
        value, levels = value[0], levels + 1
    assert levels in (499, 500)
    with pytest.raises(yaml.YAMLError, match="more than 500 levels"):
        load_foreign(nested(501))


def test_pyyaml_without_libyaml() -> None:
    """As some distributions build it."""
    program = (
        "import sys\n"
        "sys.modules['yaml._yaml'] = None\n"
        "import yaml\n"
        "from pytest_xhyve.formats.yaml_text import load_foreign\n"
        "assert not yaml.__with_libyaml__\n"
        "assert load_foreign('{a: &a [1], b: *a}') == {'a': [1], 'b': [1]}\n"
        "try:\n    load_foreign('- ' * 1500)\nexcept yaml.YAMLError:\n    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("refused\n", "")
