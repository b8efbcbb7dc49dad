"""The pages that people read, and the blocks of code in them.

A block's kind says what the tests do with it:

- ``python``: with a title, a file of the page's folder; without one, a file of tests that is run as it stands.
- ``ini``, ``toml``, ``yaml``: with a title, a file of the page's folder.
- ``console``: each line after ``$ `` is run in the page's folder, in order; what is shown below it is what came, where
  a line ``...`` stands for any lines, and ``…`` for any part of a line. A path with ``…`` in a command is the one that
  was printed before. It ends with 0, or with 1 where pytest's last line tells of failures or errors.
- ``sh``: commands that no test can run; test_docs.py has a list of them.
- ``text``: nothing to run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import other_plugins
from markdown_it import MarkdownIt

TOP = Path(__file__).parents[1]
PAGES = [
    *(TOP / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "conftest_examples/README.md")),
    *sorted((TOP / "docs").rglob("*.md")),
]
KINDS = ("python", "ini", "toml", "yaml", "console", "sh", "text")
FILES = ("python", "ini", "toml", "yaml")
SLOW_EXAMPLES = (
    *("ab_update", "etcd", "forgotten_fsync", "keepalived", "nfs", "postgresql", "raid", "redis_many_workers"),
    *("router_firewall", "sqlite", "two_web_servers"),
)
"""The folders of conftest_examples whose tests take long, or whose image needs Debian's packages."""
COMMANDS = ("pytest", "pytest-xhyve", "ssh", "cat", "ls")

_MOST_SECONDS = 200
# Where one is set, pytest cuts no lines (is_running_on_ci in its sources).
_TELL_OF_CI = ("CI", "BUILD_NUMBER")
_TITLE = re.compile(r'title="([^"]+)"')
_FAILED = re.compile(r"^=*\s*.*\b\d+ (?:failed|error)", re.MULTILINE)
# What differs from one run to the next.
_CHANGES = (
    (re.compile(r"\d+ (?=ms|s\b|MiB)|\d+\.\d+ ?(?=ms|s\b|MiB|GiB)"), "# "),
    (re.compile(r"\b20\d\d-\d\d-\d\d \d\d:\d\d"), "DATE"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b"), "UUID"),
    # Which QEMU it is, and what it is accelerated by.
    (re.compile(r"^xhyve: qemu .*, image ", re.MULTILINE), "xhyve: qemu, image "),
    (re.compile(r"^xhyve: the CPU is emulated.*\n", re.MULTILINE), ""),
    (re.compile(r"={3,}|-{3,}|_{3,}"), "==="),
    (re.compile(r"[ \t]+"), " "),
)


@dataclass(frozen=True)
class Block:
    """A block of code: where it starts, its kind, its title, and its text."""

    page: Path
    line: int
    kind: str
    title: str | None
    text: str

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


@dataclass(frozen=True)
class Step:
    """A command of a ``console`` block, and what is shown below it."""

    block: Block
    command: str
    shown: str


def name(page: Path) -> str:
    """A page's name, for people."""
    return str(page.relative_to(TOP))


ON_A_DISK = (
    "pytest --xhyve-image=ubuntu18.img",
    "pytest-xhyve show ubuntu18.img",
    "pytest-xhyve boot-files ubuntu18.img boot",
    "pytest-xhyve import ubuntu18.img --name web > web.yaml",
)
"""The commands of own-image.md that need the reader's own disk, and nothing else."""


def blocks(page: Path, *kinds: str) -> list[Block]:
    """The blocks of *page*, all of them or those of the *kinds*; a block that is only indented has none."""
    found = []
    for token in MarkdownIt().parse(page.read_text()):
        if token.type in ("fence", "code_block"):
            kind, _, rest = token.info.partition(" ")
            title = _TITLE.search(rest)
            line = token.map[0] + 1 if token.map else 0
            found.append(Block(page, line, kind, title[1] if title else None, token.content))
    return [block for block in found if not kinds or block.kind in kinds]


def steps(block: Block) -> Iterator[Step]:
    """The commands of a ``console`` block."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        while command.endswith("\\"):
            more, _, shown = shown.partition("\n")
            command = command[:-1] + more.removeprefix("> ")
        yield Step(block, command, shown)


def run_command(command: str, folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """As `run`, for a command that shows nothing."""
    return run(Step(Block(TOP, 0, "sh", None, command), command, ""), folder, home)


def run(step: Step, folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a reader would in an 80 column terminal, with all that it says in one stream."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "XHYVE"))}
    for name in _TELL_OF_CI:
        environment.pop(name, None)
    environment |= {
        "COLUMNS": "80",
        "PYTEST_ADDOPTS": "" if step.block.page.stem == "other-plugins" else other_plugins.WITHOUT,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTEST_XHYVE_HOME": str(home),
    }
    try:
        return subprocess.run(  # noqa: S602  # as it stands on the page
            step.command,
            shell=True,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_MOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode(errors="replace")
        return subprocess.CompletedProcess(step.command, -1, f"{said}\nno end after {_MOST_SECONDS} s\n")


def program(command: str) -> str:
    """The program that a command runs."""
    return re.sub(r"^(?:\w+=\S+ )*", "", command).split()[0]


def expected_code(step: Step) -> int:
    """How the command should end, by what is shown of it."""
    lines = step.shown.strip().splitlines()
    runs_pytest = program(step.command) == "pytest" or "--pytest" in step.command.split()
    return 1 if lines and runs_pytest and _FAILED.search(lines[-1]) else 0


def is_shown(shown: str, said: str) -> bool:
    """Whether *said* is what *shown* shows; nothing shown is nothing claimed."""
    if not shown.strip():
        return True
    pieces = (_pattern(piece, ".*") for piece in re.split(r"^\.\.\.$", shown.strip(), flags=re.MULTILINE))
    return re.fullmatch(r"(?s:.*)".join(pieces), _steady(said)) is not None


def filled_in(step: Step, said: str) -> Step:
    """The step with each path that has ``…`` in it as *said* before."""
    words = []
    for word in step.command.split():
        found = re.findall(_pattern(word, r"\S*"), said) if "…" in word else []
        words.append(found[-1] if found else word)
    return replace(step, command=" ".join(words)) if "…" in step.command else step


def _pattern(text: str, anything: str) -> str:
    return anything.join(re.escape(piece) for piece in _steady(text).split("…"))


def _steady(text: str) -> str:
    for change, stands in _CHANGES:
        text = change.sub(stands, text)
    return "\n".join(line.strip() for line in text.strip().splitlines() if line.strip())
