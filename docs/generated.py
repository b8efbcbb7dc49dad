"""The parts of the docs that are generated from the code.

A page marks the place of each with a comment: ``<!-- generated: NAME -->`` for a function of this module, and
``<!-- reference: NAME -->`` for the docstrings of a name; a colon and names after it choose the members.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import click

import pytest_xhyve
from pytest_xhyve import model
from pytest_xhyve.cli.commands import main
from pytest_xhyve.model.options import OPTIONS, Option
from pytest_xhyve.model.restriction import Restriction
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.plugin import fixtures

_TOP = Path(__file__).parents[1]
_PLACE = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
_REFERENCE = re.compile(r"^<!-- reference: ([\w.]+)(?::([\w, \n]+))? -->$", re.MULTILINE)
_DEFAULT = re.compile(r" *\(default: (.*)\)$")
_ATTRIBUTE = re.compile(r"^ +(\w+): (.*(?:\n {8,}.*)*)$", re.MULTILINE)


def fill_in(markdown: str) -> str:
    """Put what is generated into a page."""
    markdown = _PLACE.sub(lambda place: _GENERATED[place[1]](), markdown)
    return _REFERENCE.sub(lambda place: _reference(place[1], place[2] or ""), markdown)


def _reference(name: str, members: str) -> str:
    module, _, attribute = name.rpartition(".")
    found = getattr(import_module(module), attribute)
    if not inspect.isclass(found):
        return _autodoc("function", name)
    return _autodoc("class", name, f":members: {' '.join(members.split())}" if members else "")


def _autodoc(kind: str, name: str, *options: str) -> str:
    lines = [f".. auto{kind}:: {name}", *(f"   {option}" for option in options if option)]
    return "\n".join(["```{eval-rst}", *lines, "```", ""])


def errors() -> str:
    """Every public error by its docstrings."""
    public = (error for error in vars(model.errors).values() if getattr(error, "__name__", "") in pytest_xhyve.__all__)
    return "\n".join(
        _autodoc("exception", f"pytest_xhyve.{error.__name__}", ":members:", ":show-inheritance:") for error in public
    )


def options() -> str:
    """Describe every option: its ini value, its environment variable and its default."""
    rows = ["| option | ini value | environment |", "|---|---|---|"]
    for option in OPTIONS:
        variable = f"`{option.variable}`" if option.environment else ""
        rows.append(f"| [`{option.flag}`](#{option.ini}) | `{option.ini}` | {variable} |")
    return "\n".join([*rows, "", *(_option(option) for option in OPTIONS)])


def _option(option: Option) -> str:
    default = _DEFAULT.search(option.help)
    text = _DEFAULT.sub("", option.help).strip()
    title = f"{option.flag} {option.metavar}".strip()
    lines = [f"({option.ini})=", "", f"## `{title}`", "", f"{text[0].upper()}{text[1:]}."]
    if default is not None:
        lines += ["", f"Default: {default[1]}."]
    return "\n".join([*lines, ""])


class Fixture(NamedTuple):
    """A fixture, as its source has it."""

    name: str
    scope: str
    text: str


def find_fixtures() -> Iterator[Fixture]:
    """The fixtures that tests may ask for."""
    for node in ast.parse(inspect.getsource(fixtures)).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            for decorator in node.decorator_list:
                scope = re.search(r"scope='(\w+)'", ast.unparse(decorator))
                text = inspect.cleandoc(ast.get_docstring(node) or "")
                yield Fixture(node.name, scope[1] if scope else "function", text)


def fixture_list() -> str:
    """Every fixture by its docstring."""
    rows = ["| fixture | scope | gives |", "|---|---|---|"]
    rows += [f"| `{name}`{{#{name}}} | {scope} | {_line(text)} |" for name, scope, text in find_fixtures()]
    return "\n".join(rows)


def marker() -> str:
    """The keys of the marker, which are those of a guest's spec."""
    rows = ["| key | meaning |", "|---|---|"]
    described = (inspect.getdoc(kind) or "" for kind in (GuestSpec, Restriction))
    for name, text in _ATTRIBUTE.findall("\n".join(described)):
        rows.append(f"| `{name}` | {_line(text).removesuffix('.')} |")
    return "\n".join(rows)


def _line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def command_line() -> str:
    """The help of every command, as click prints it."""
    return "\n".join(_commands(main, "pytest-xhyve", None))


def _commands(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    settings = {**command.context_settings, "terminal_width": 78, "max_content_width": 78}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    path = context.command_path
    yield f"({path.replace(' ', '-')})=\n\n## `{path}`\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found is not None
            yield from _commands(found, each, context)


def changelog() -> str:
    """CHANGELOG.md, without its title."""
    return (_TOP / "CHANGELOG.md").read_text().partition("\n")[2]


_GENERATED: dict[str, Callable[[], str]] = {
    "options": options,
    "fixtures": fixture_list,
    "marker": marker,
    "command_line": command_line,
    "changelog": changelog,
    "errors": errors,
}
