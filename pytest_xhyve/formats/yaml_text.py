"""Read YAML that another person may have written.

An alias stands for what its anchor names, and that may contain aliases again: ten lines can stand for a billion values,
and a value can contain itself. PyYAML reads them at once, but what then prints or copies the values never ends. So all
that a text stands for is counted before its values are made.
"""

from __future__ import annotations

from typing import Any

import yaml

try:
    # libyaml takes a tenth of the time, and limits how deep values may be nested. Not every PyYAML was built with it.
    from yaml import CSafeLoader as SafeLoader
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

MOST_BYTES = 1 << 20
"""A file that people write is smaller than this, in bytes."""

_MOST_NODES = 100_000


class BoundedLoader(SafeLoader):
    """A safe loader of PyYAML that refuses a text that stands for too much.

    Raises:
        yaml.YAMLError: it does, by its aliases, or it contains itself.
    """

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _check(node)
        return node


def load_foreign(text: str) -> Any:
    """The content of *text*.

    Raises:
        yaml.YAMLError: it is not YAML, or stands for too much.
    """
    try:
        return yaml.load(text, BoundedLoader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError:
        raise
    # Errors of int(), date() and others for values that look like numbers or dates, and RecursionError.
    except Exception as error:
        raise yaml.YAMLError(str(error)) from error


def _check(root: yaml.Node) -> None:
    """Count the nodes below *root*, each as often as it is named."""
    sizes: dict[int, int] = {}
    # A node whose count is not known yet is one that is being counted.
    waiting = [root]
    begun: set[int] = set()
    while waiting:
        node = waiting[-1]
        children = _children(node)
        missing = [child for child in children if id(child) not in sizes]
        if missing and id(node) in begun:
            raise _refused(node, "an alias of it is in itself")
        if missing:
            begun.add(id(node))
            waiting += missing
            continue
        waiting.pop()
        sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
        if sizes[id(node)] > _MOST_NODES:
            raise _refused(node, f"its aliases stand for more than {_MOST_NODES} values")


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _refused(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
