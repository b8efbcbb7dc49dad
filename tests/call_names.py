"""Names of the functions that a source calls, for tests that read sources."""

from __future__ import annotations

import ast


def end_of_name(function: ast.expr) -> tuple[str, str]:
    """The last part of a function's name, and the last two with the dot between them; `ast.unparse` takes longer."""
    if isinstance(function, ast.Name):
        return function.id, function.id
    if isinstance(function, ast.Attribute):
        owner = function.value
        before = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else "()"
        return function.attr, f"{before}.{function.attr}"
    return "()", "()"
