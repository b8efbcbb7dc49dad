"""Calls the hook ``pytest_xhyve_machine``: each conftest.py gets what the one above it returned."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_xhyve.model.errors import ConfigurationError

if TYPE_CHECKING:
    from pytest_xhyve.model.machine import Machine


def has_machine_hook(item: pytest.Item) -> bool:
    """Whether a conftest.py of *item*'s folder or above, or a plugin, has the hook."""
    return bool(item.ihook.pytest_xhyve_machine.get_hookimpls())


def machine_hook(item: pytest.Item, request: pytest.FixtureRequest) -> Callable[[Machine], Machine] | None:
    """A function that passes a machine through the hooks of *item*'s folder and above; None if there is no hook."""
    return partial(_modify, item, request) if has_machine_hook(item) else None


def _modify(item: pytest.Item, request: pytest.FixtureRequest, machine: Machine) -> Machine:
    """Call the implementations from the outermost conftest.py inwards, each with the machine of the one before.

    Raises:
        ConfigurationError: an implementation is a hook wrapper.
    """
    for implementation in _outermost_first(item):
        if implementation.hookwrapper or implementation.wrapper:
            raise ConfigurationError(
                f"{implementation.plugin_name}: pytest_xhyve_machine cannot be a hook wrapper\n"
                "  return the changed machine instead"
            )
        arguments = {"machine": machine, "request": request}
        changed = implementation.function(*(arguments[name] for name in implementation.argnames))
        if changed is not None:
            machine = changed
    return machine


def _outermost_first(item: pytest.Item) -> list[Any]:
    # The order of registration: pytest registers the outermost conftest.py first.
    found = item.ihook.pytest_xhyve_machine.get_hookimpls()
    return sorted(found, key=lambda implementation: (not implementation.tryfirst, implementation.trylast))
