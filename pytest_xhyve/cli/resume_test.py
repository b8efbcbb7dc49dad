"""Run the failed test of a bundle again, with its saved guests in the place of new ones."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import click

from pytest_xhyve.fleet.bundle import Bundle
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.failure import Failure
from pytest_xhyve.model.text import printable

_PLUGIN = "pytest_xhyve.plugin.resumed_test"
_IMAGE = "--xhyve-image"


def run_test(
    path: Path,
    arguments: Sequence[str],
    files: Mapping[str, Path | None],
    options: Mapping[str, str | None],
    *,
    frozen_clock: bool,
) -> NoReturn:
    """Run pytest in the place of this process.

    Args:
        path: the bundle.
        arguments: more arguments for pytest.
        files: the image and the key that the user names.
        options: of the hypervisor, by their names.
        frozen_clock: whether the guests' clocks stay at the moment of the failure.

    Raises:
        XhyveError: the bundle is damaged, or its test is not here.
    """
    with Bundle.open(path) as bundle:
        failure = bundle.failure
    argv = [sys.executable, "-m", "pytest", "-p", _PLUGIN, f"--xhyve-resume={path.absolute()}"]
    argv += [f"--xhyve-resume-{name}={file.absolute()}" for name, file in files.items() if file is not None]
    argv += ["--xhyve-resume-frozen"] if frozen_clock else []
    # All guests are of one process.
    argv += ["-n0"] if find_spec("xdist") is not None else []
    argv += [f"--xhyve-{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
    names_image = any(argument.startswith(_IMAGE) for argument in arguments)
    argv += [option for option in failure.options if not (names_image and option.startswith(_IMAGE))]
    argv += [*arguments, _find_test(failure)]
    click.echo(printable(shlex.join(argv[1:])), err=True)
    os.execv(argv[0], argv)  # noqa: S606  # no shell is what it should be


def _find_test(failure: Failure) -> str:
    """The test as an argument of pytest.

    Another person may have written the bundle, so the test's file has to be one of the user's project.
    """
    name, separator, rest = failure.test.partition("::")
    here = Path.cwd().resolve()
    try:
        file = (here / name).resolve()
        is_here = file.is_relative_to(here) and file.is_file()
    except (OSError, ValueError):
        is_here = False
    if not is_here:
        raise XhyveError(
            f"the test {printable(failure.test)} is not here\n  change to the folder of the project that it is in"
        )
    return f"{file}{separator}{rest}"
