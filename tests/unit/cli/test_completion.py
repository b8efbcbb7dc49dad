"""The completion of the shells, set up as the docs say, and used on a terminal."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from terminals import on_terminal

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "command-line.md"
BIN = Path(sys.executable).parent
# What each shell needs so that it reads no file of the user and completes at all.
SHELLS = {
    "bash": (["bash", "--noprofile", "--norc", "-i"], ""),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit && compinit -u -D"),
    "fish": (["fish", "-i"], ""),
}


def documented(shell: str) -> tuple[Path, str]:
    """The file, below the home folder, and the line for *shell*."""
    (row,) = re.findall(rf"^\| {shell} \| `~/([^`]*)` \| `(.*)` \|$", PAGE.read_text(), re.MULTILINE)
    return Path(row[0]), row[1].replace(r"\|", "|")


@pytest.mark.parametrize("shell", SHELLS)
def test_shell_completes_as_documented(shell: str, tmp_path: Path) -> None:
    argv, before = SHELLS[shell]
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{shell} is not installed")
    file, line = documented(shell)
    (tmp_path / "test_it.xhyve").touch()
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    if shell == "fish":
        # It reads the file by itself.
        (tmp_path / file).write_text(f"{line}\n")
    environment = {"HOME": str(tmp_path), "PATH": f"{BIN}:{os.environ['PATH']}", "XDG_CONFIG_HOME": ""}
    with on_terminal(argv, environment) as (terminal, _):
        for typed in (f"cd {tmp_path}", before, "" if shell == "fish" else line):
            terminal.type(f"{typed}\r")
        terminal.type("echo ready:$HOME\r")
        terminal.wait_for(f"ready:{tmp_path}")
        terminal.type("pytest-xhyve resu\t")
        terminal.wait_for(r"pytest-xhyve resume ")
        terminal.type("--frozen-c\t")
        terminal.wait_for(r"--frozen-clock ")
        terminal.type("test_i\t")
        terminal.wait_for(r"test_it\.xhyve ")
        terminal.type("--help\r")
        terminal.wait_for(r"Usage: pytest-xhyve resume \[OPTIONS\]")
