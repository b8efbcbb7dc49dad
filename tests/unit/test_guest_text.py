"""The places at which the package shows text, each with what keeps a guest's bytes off the user's terminal.

A new place fails this test. Before you add it here, see that the text goes through `pytest_xhyve.model.text.printable`,
or that no guest can write it. A place that is listed as `PRINTABLE` fails if it does not call this function itself.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import pages
import pytest
from call_names import end_of_name

PACKAGE = pages.TOP / "pytest_xhyve"

# Calls that show text, by the last part of their name, or by the last two.
SHOWING = {
    "echo",
    "print",
    "secho",
    "write_line",
    "warn",
    "add_note",
    "add_report_section",
    "UsageError",
    "ClickException",
    "pytest.exit",
    "pytest.fail",
    "pytest.skip",
    "writer.line",
    "terminal.line",
    "terminal.section",
    "sections.append",
    "stderr.write",
    "stdout.write",
}

PRINTABLE = "calls printable()"
ERROR = "the text of an XhyveError, which is printable"
COMPLETED = "Completed.report() and the plugin's own words"
OURS = "names, paths and numbers of the plugin and of files of the user"
REPORT = "the report goes through make_harmless()"

KNOWN = {
    ("cli/build.py", "UsageError"): {OURS: 4},
    ("cli/commands.py", "ClickException"): {ERROR: 2},
    ("cli/console_client.py", "echo"): {OURS: 2},
    ("cli/guest_options.py", "UsageError"): {ERROR: 1},
    ("cli/host_commands.py", "UsageError"): {OURS: 3},
    ("cli/exchange_commands.py", "echo"): {OURS: 1},
    ("cli/host_commands.py", "echo"): {OURS: 15},
    ("cli/image_commands.py", "echo"): {OURS: 5, PRINTABLE: 2},
    ("cli/pull.py", "UsageError"): {OURS: 1},
    ("cli/progress.py", "echo"): {PRINTABLE: 2},
    ("cli/progress.py", "print"): {PRINTABLE: 1},
    ("guest/access.py", "warn"): {PRINTABLE: 1},
    ("guest/boot_errors.py", "add_note"): {ERROR: 1},
    ("guest/chaos.py", "add_note"): {ERROR: 1},
    ("cli/resume_command.py", "UsageError"): {OURS: 2},
    ("cli/resume_test.py", "echo"): {PRINTABLE: 1},
    ("cli/running_command.py", "echo"): {OURS: 1},
    ("guest/commands.py", "add_note"): {COMPLETED: 3},
    ("guest/crash_states.py", "add_note"): {OURS: 2},
    ("guest/expose.py", "warn"): {ERROR: 1},
    ("guest/fault_notes.py", "add_note"): {OURS: 1},
    ("guest/guest.py", "add_note"): {ERROR: 1},
    ("guest/guests.py", "add_note"): {ERROR: 1},
    ("images/emulator.py", "stderr.write"): {ERROR: 1},
    ("images/libraries.py", "stderr.write"): {ERROR: 1},
    ("images/libraries.py", "stdout.write"): {OURS: 1},
    ("lan/switch.py", "add_note"): {ERROR: 1},
    ("plugin/__init__.py", "UsageError"): {ERROR: 2},
    ("plugin/__init__.py", "pytest.fail"): {ERROR: 1},
    ("plugin/fixtures.py", "pytest.skip"): {OURS: 1},
    ("plugin/fixtures.py", "write_line"): {PRINTABLE: 1},
    ("plugin/html_report.py", "write_line"): {OURS: 2},
    ("plugin/job_summary.py", "write_line"): {OURS: 1},
    ("plugin/other_hosts.py", "UsageError"): {ERROR: 2},
    ("plugin/other_hosts.py", "pytest.exit"): {ERROR: 1},
    ("plugin/reporting.py", "add_report_section"): {REPORT: 1, OURS: 1},
    ("plugin/reporting.py", "sections.append"): {REPORT: 1},
    ("plugin/reporting.py", "writer.line"): {OURS: 2},
    ("plugin/restricted.py", "pytest.skip"): {OURS: 1},
    ("plugin/saving.py", "add_report_section"): {REPORT: 1},
    ("plugin/saving.py", "sections.append"): {REPORT: 1},
    ("plugin/summary.py", "terminal.line"): {OURS: 10},
    ("plugin/summary.py", "terminal.section"): {OURS: 4},
}


@pytest.fixture(scope="module")
def sources() -> Mapping[str, list[ast.AST]]:
    """The calls and the classes of each file of the package."""
    return {path.relative_to(PACKAGE).as_posix(): parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def parse(source: str) -> list[ast.AST]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call | ast.ClassDef)]


def calls_that_show(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, bool]]:
    """The name of each call of *nodes* that shows text, and whether `printable` is called for its arguments."""
    for node in nodes:
        if isinstance(node, ast.Call):
            last, both = end_of_name(node.func)
            for name in {last, both} & SHOWING:
                yield name, any(_is_printable(each) for argument in node.args for each in ast.walk(argument))


def _is_printable(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "printable"


def test_every_place_that_shows_text_is_known(sources: Mapping[str, list[ast.AST]]) -> None:
    made: Counter[tuple[str, str]] = Counter()
    through: Counter[tuple[str, str]] = Counter()
    for path, nodes in sources.items():
        for name, is_printable in calls_that_show(nodes):
            made[path, name] += 1
            through[path, name] += is_printable
    assert made == {place: sum(reasons.values()) for place, reasons in KNOWN.items()}
    assert +through == {place: reasons[PRINTABLE] for place, reasons in KNOWN.items() if PRINTABLE in reasons}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("click.echo(printable(text), err=True)", [("echo", True)]),
        ("click.echo(text, err=True)", [("echo", False)]),
        ("terminal.write_line(f'xhyve: {printable(line)}')", [("write_line", True)]),
        ("self.line(line)", []),
        ("sys.stdout.write(line)", [("stdout.write", False)]),
    ],
)
def test_such_calls_are_found(source: str, found: list[tuple[str, bool]]) -> None:
    assert list(calls_that_show(parse(source))) == found


def test_errors_do_not_go_around_their_class(sources: Mapping[str, list[ast.AST]]) -> None:
    """An error of ours that had a `__str__` of its own could show a guest's text as it is."""
    own = [
        (path, node.name)
        for path, nodes in sources.items()
        for node in nodes
        if isinstance(node, ast.ClassDef)
        and any(
            isinstance(base, ast.Name) and base.id.endswith(("Error", "Failed", "Exception")) for base in node.bases
        )
        and any(isinstance(each, ast.FunctionDef) and each.name in ("__str__", "__repr__") for each in node.body)
    ]
    assert own == [("model/errors.py", "XhyveError")]
