"""Which of the programs that are called xhyve one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pytest_xhyve.hypervisors.base import ExitReason
from pytest_xhyve.hypervisors.xhyve.build import KilledAtOnce, ask_build, find_program
from pytest_xhyve.model.errors import HypervisorNotFound

XHYVE = "{}: {}\n\nxhyve is a port of FreeBSD's bhyve hypervisor to OS X\n\nHomepage: http://www.xhyve.xyz\n"
HYPERKIT = "{}: {}\n\nHomepage: https://github.com/docker/hyperkit\nLicense: BSD\n"

ANSWERS: Mapping[str, Mapping[tuple[str, ...], tuple[int | None, str]]] = {
    "v0.2.0": {
        ("-M", "-v"): (1, "xhyve: illegal option -- M\nUsage: xhyve …\n"),
        ("-v",): (0, XHYVE.format("xhyve", "v0.2.0")),
    },
    "head": {("-M", "-v"): (0, XHYVE.format("other", "v0.2.0-108-gdfbe09"))},
    # A name tells nothing: docker-machine-driver-xhyve's hyperkit is called xhyve.
    "hyperkit": {("-M", "-v"): (0, HYPERKIT.format("xhyve", "v0.20190201"))},
}


def ask(build: str, argv: Sequence[str]) -> tuple[int | None, str]:
    return ANSWERS[build][tuple(argv[1:])]


def test_three_builds() -> None:
    builds = {name: ask_build("x", lambda argv, name=name: ask(name, argv)) for name in ANSWERS}  # type: ignore[misc]
    assert [(build.name, build.version) for build in builds.values()] == [
        ("xhyve", "v0.2.0"),
        ("xhyve", "v0.2.0-108-gdfbe09"),
        ("hyperkit", "v0.20190201"),
    ]
    assert [(build.reports_mac, build.writes_pidfile, build.pauses) for build in builds.values()] == [
        (False, False, False),
        (True, True, False),
        (True, True, True),
    ]


@pytest.mark.parametrize(
    ("build", "status", "ending"),
    [
        ("head", 0, ExitReason.RESTARTED),
        ("head", 1, ExitReason.POWERED_OFF),
        ("head", 2, ExitReason.HALTED),
        ("v0.2.0", 0, ExitReason.RESTARTED),
        ("hyperkit", 0, ExitReason.POWERED_OFF),
        ("hyperkit", 2, ExitReason.RESTARTED),
        ("hyperkit", 1, ExitReason.FAILED),
        ("head", 3, ExitReason.TRIPLE_FAULT),
        ("head", 100, ExitReason.FAILED),
        ("head", -9, ExitReason.KILLED),
    ],
)
def test_exit_codes_are_the_builds(build: str, status: int, ending: ExitReason) -> None:
    assert ask_build("x", lambda argv: ask(build, argv)).exit_reason(status) is ending


@pytest.mark.parametrize("answer", [(2, "what?\n"), (3, ""), (0, ""), (0, "x: 1\n"), (None, "permission denied")])
def test_what_is_none_of_them(answer: tuple[int | None, str]) -> None:
    with pytest.raises(HypervisorNotFound, match="is not xhyve or hyperkit"):
        ask_build("x", lambda _: answer)


def test_killed_by_macos() -> None:
    with pytest.raises(KilledAtOnce, match=r"signature[\s\S]*codesign"):
        ask_build("x", lambda _: (-9, ""))


def test_a_real_program(tmp_path: Path) -> None:
    program = tmp_path / "program"
    for redirect in ("", ">&2"):
        program.write_text(f"#!/bin/sh\ncat {redirect} <<'END'\n{XHYVE.format('xhyve', '1')}END\n")
        program.chmod(0o755)
        assert ask_build(str(program)).version == "1"
    with pytest.raises(HypervisorNotFound, match="is not xhyve or hyperkit"):
        ask_build("/bin/true")
    with pytest.raises(HypervisorNotFound, match="is not xhyve or hyperkit"):
        ask_build(str(tmp_path))


def test_missing_program() -> None:
    with pytest.raises(HypervisorNotFound, match=r"looked for no-such in PATH[\s\S]*--xhyve-hypervisor=qemu"):
        find_program("no-such")
