"""Read the YAML files that a user writes for the plugin: manifests, recipes, lists of distributions."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from pytest_xhyve.formats.yaml_text import MOST_BYTES, BoundedLoader
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.values import format_size, short_repr


class _Loader(BoundedLoader):
    """Rejects duplicate keys, as YAML requires (1.2.2, section 3.2.1.1); PyYAML silently uses the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    line = key_node.start_mark.line + 1
                    raise ConfigurationError(f"duplicate key {short_repr(key)} in line {line}; remove one of the two")
                seen.add(key)
        return super().construct_mapping(node, deep)


def load_mapping(path: Path, kind: str, example: str) -> dict[str, Any]:
    """The keys of the YAML file at *path*.

    Args:
        path: the file.
        kind: what it is, for messages.
        example: one of its keys with a value, for messages.

    Raises:
        ConfigurationError: the file cannot be read, is not YAML, or not a mapping; no message shows a password.
    """
    text = ""
    try:
        text = _read_small(path).decode()
        content = yaml.load(text, _Loader)  # noqa: S506  # _Loader is a SafeLoader
    except OSError as error:
        raise ConfigurationError(f"cannot read the {kind} {path}: {error.strerror}") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    except yaml.MarkedYAMLError as error:
        # What is missing at the end of the file, libyaml finds missing in the line after it.
        last = text.count("\n", 0, -1)
        line = f" in line {min(error.problem_mark.line, last) + 1}" if error.problem_mark is not None else ""
        raise ConfigurationError(f"{path} is not YAML{line}: {error.problem or error}") from error
    except Exception as error:
        # Besides YAMLError: errors of int(), date() and others for values that look like numbers or dates.
        reason = type(error).__name__ if "password" in text else error
        raise ConfigurationError(f"{path} is not YAML: {reason}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: a {kind} is a mapping of keys to values, for example `{example}`")
    return content


def _read_small(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ConfigurationError(f"it has more than {format_size(MOST_BYTES)}, which a person has not written")
    return text
