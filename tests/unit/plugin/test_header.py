"""What the plugin writes into the header of a run."""

from __future__ import annotations

import pytest
from fake_images import write_image


def test_header_tells_of_hypervisor_acceleration_and_image(pytester: pytest.Pytester) -> None:
    manifest = write_image(pytester.path)
    result = pytester.runpytest_inprocess(f"--xhyve-image={manifest}", "--xhyve-accel=tcg")
    result.stdout.fnmatch_lines(
        [f"xhyve: qemu [0-9]*, tcg (requested), image {manifest}", "xhyve: the CPU is emulated*4 times as long"]
    )


def test_header_waits_for_a_test_that_wants_a_guest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_guest(xhyve_ssh): pass")
    result = pytester.runpytest_inprocess("--collect-only")
    result.stdout.fnmatch_lines(["collected 1 item", "xhyve: qemu *image debian12*"])


def test_header_says_that_there_is_no_hypervisor(pytester: pytest.Pytester) -> None:
    # What the ini file names is missed by tests that want guests only.
    result = pytester.runpytest_inprocess("-o", "xhyve_executable=/no/qemu")
    result.stdout.fnmatch_lines(["xhyve: no hypervisor, image debian12*", "*looked for /no/qemu*"])
