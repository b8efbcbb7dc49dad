"""Run tests with the versions that pyproject.toml claims: each CPython, the oldest dependencies, and the newest.

``nox`` runs all of it, ``nox --session oldest`` one part. A CPython that is not here is passed over.
"""

from __future__ import annotations

import os
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = False

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
UNIT = "tests/unit"
GUESTS = ("tests/guests/test_plugin.py", "tests/guests/test_run.py")
"""Guests as users have them: the fixtures, the hooks, xdist, and the command line."""


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """The newest versions of all dependencies."""
    session.install("--upgrade", "--editable", ".[test]")
    _run_tests(session)


@nox.session(python=PYTHONS)
def oldest(session: nox.Session) -> None:
    """The oldest version that pyproject.toml allows of each dependency that it names."""
    session.install("--resolution", "lowest-direct", "--editable", ".[test]")
    _run_tests(session)


def _run_tests(session: nox.Session) -> None:
    # What is in use, for who reads the log.
    session.run("uv", "pip", "list", external=True)
    # The runs that tests start find programs of this environment first.
    session.env["PATH"] = os.pathsep.join([str(Path(session.bin)), os.environ["PATH"]])
    session.run("pytest", UNIT, "-n", "2", "--dist", "loadfile", *session.posargs)
    session.run("pytest", *GUESTS, "-n", "2", "--dist", "loadfile", *session.posargs)
