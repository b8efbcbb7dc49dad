"""The plugin's lines in pytest's header."""

from __future__ import annotations

import pytest
from fake_images import write_image

from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.preparation.prepared import record_duration


def test_header_shows_hypervisor_acceleration_and_image(pytester: pytest.Pytester) -> None:
    manifest = write_image(pytester.path)
    result = pytester.runpytest_inprocess(f"--xhyve-image={manifest}", "--xhyve-accel=tcg")
    result.stdout.fnmatch_lines(
        [f"xhyve: qemu [0-9]*, tcg (requested), image {manifest}", "xhyve: the CPU is emulated*4 times as long"]
    )


def test_without_options_the_lines_follow_the_collection(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_guest(xhyve_ssh): pass")
    result = pytester.runpytest_inprocess("--collect-only")
    result.stdout.fnmatch_lines(["collected 1 item", "xhyve: qemu *image debian12*"])


def test_header_reports_that_no_hypervisor_was_found(pytester: pytest.Pytester) -> None:
    # A program that only the ini file names is an error for tests with guests, not for the run.
    result = pytester.runpytest_inprocess("-o", "xhyve_executable=/no/qemu")
    result.stdout.fnmatch_lines(["xhyve: no hypervisor, image debian12*", "*looked for /no/qemu*"])


def test_header_reports_a_disk_that_is_not_prepared(
    pytester: pytest.Pytester, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(home.path))
    (pytester.path / "own.img").write_bytes(b"XFSB".ljust(1 << 16))
    result = pytester.runpytest_inprocess("--xhyve-image=own.img", "--xhyve-accel=tcg")
    result.stdout.fnmatch_lines(["*own.img (not prepared yet; the first guest prepares it, which takes about as long*"])
    for seconds in (20.0, 40.0, 90.0):
        record_duration(home, seconds)
    result = pytester.runpytest_inprocess("--xhyve-image=own.img", "--xhyve-accel=tcg")
    result.stdout.fnmatch_lines(["*own.img (not prepared yet; *, which usually takes about 40*s)"])
