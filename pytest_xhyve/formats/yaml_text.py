"""Read YAML that another person may have written.

An alias stands for what its anchor names, and that may contain aliases again: ten lines can stand for a billion values,
and a value can contain itself. PyYAML reads them at once, but what then prints or copies the values never ends. So all
that a text stands for is counted before its values are made.

PyYAML calls itself for each level of nested values. With a libyaml that has no limit of its own (0.2.5, as in PyYAML
6.0.2), two thousand brackets use up the stack of a thread of 512 KiB, and end the process. So a text that may be deep
is looked through first, which needs no stack.
"""

from __future__ import annotations

from typing import Any

import yaml

try:
    # libyaml takes a tenth of the time. Not every PyYAML was built with it.
    from yaml import CSafeLoader as SafeLoader
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

MOST_BYTES = 1 << 20
"""A file that people write is smaller than this, in bytes."""

_MOST_NODES = 100_000
_MOST_LEVELS = 500


class BoundedLoader(SafeLoader):
    """A safe loader of PyYAML that refuses a text that stands for too much.

    Args:
        text: the text.

    Raises:
        yaml.YAMLError: it does, by its aliases, or it contains itself, or its values are nested too deep.
    """

    def __init__(self, text: str) -> None:
        if _may_be_deep(text):
            _check_levels(text)
        super().__init__(text)

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


def _may_be_deep(text: str) -> bool:
    """Whether the values in *text* may have more levels than `_MOST_LEVELS`; the answer takes no parser.

    A value without brackets is indented more than the one around it; only a list in a mapping need not be (YAML 1.2.2,
    section 8.2). A pair in a list with brackets is a mapping without brackets of its own (section 7.4.2).
    """
    brackets = text.count("[") + text.count("{")
    longest_line = max(map(len, text.split("\n")))
    return 2 * (brackets + longest_line) > _MOST_LEVELS


def _check_levels(text: str) -> None:
    levels = 0
    for event in yaml.parse(text, SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            levels += 1
            if levels > _MOST_LEVELS:
                raise _refused(event.start_mark, f"values are nested in more than {_MOST_LEVELS} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            levels -= 1


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
            raise _refused(node.start_mark, "an alias of it is in itself")
        if missing:
            begun.add(id(node))
            waiting += missing
            continue
        waiting.pop()
        sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
        if sizes[id(node)] > _MOST_NODES:
            raise _refused(node.start_mark, f"its aliases stand for more than {_MOST_NODES} values")


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _refused(mark: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
