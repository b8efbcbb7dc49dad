"""What of the docs is written by the code: each page says where, by a line ``<!-- generated: NAME -->``."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from pytest_xhyve.cli.commands import main
from pytest_xhyve.model.settings import OPTIONS, Option
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.plugin import fixtures

_TOP = Path(__file__).parents[1]
_PLACE = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
_DEFAULT = re.compile(r" *\(default: (.*)\)$")
_ATTRIBUTE = re.compile(r"^ +(\w+): (.*(?:\n {12,}.*)*)$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with each page: put in what is generated."""
    return _PLACE.sub(lambda place: _GENERATED[place[1]](), markdown)


def options() -> str:
    """Every option, with its ini value, its environment variable and its default."""
    rows = ["| option | ini value | environment |", "|---|---|---|"]
    for option in OPTIONS:
        variable = f"`{option.variable}`" if option.environment else ""
        rows.append(f"| [`{option.flag}`](#{option.ini}) | `{option.ini}` | {variable} |")
    return "\n".join([*rows, "", *(_option(option) for option in OPTIONS)])


def _option(option: Option) -> str:
    default = _DEFAULT.search(option.help)
    said = _DEFAULT.sub("", option.help).strip()
    title = f"{option.flag} {option.metavar}".strip()
    lines = [f"## `{title}` {{ #{option.ini} }}", "", f"{said[0].upper()}{said[1:]}."]
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
    rows += [f"| `{name}`{{ #{name} }} | {scope} | {_line(text)} |" for name, scope, text in find_fixtures()]
    return "\n".join(rows)


def marker() -> str:
    """The keys of the marker, which are those of a guest's spec."""
    rows = ["| key | meaning |", "|---|---|"]
    for name, text in _ATTRIBUTE.findall(inspect.getdoc(GuestSpec) or ""):
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
    yield f"## `{path}` {{ #{path.replace(' ', '-')} }}\n\n```text\n{command.get_help(context)}\n```\n"
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
}
