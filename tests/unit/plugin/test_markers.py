"""The marker ``xhyve``: its keys, the guests that it reaches, and what pytest rejects before any test."""

from __future__ import annotations

import dataclasses
from textwrap import dedent

import pytest

from pytest_xhyve.model.restriction import Restriction
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.plugin.selection import _MARKER_KEYS


def test_markers_are_explained(pytester: pytest.Pytester) -> None:
    fields = [*dataclasses.fields(GuestSpec), *dataclasses.fields(Restriction)]
    keys = ", ".join(f"{field.name}=None" for field in fields)
    pytester.runpytest_inprocess("--markers").stdout.fnmatch_lines([f"@pytest.mark.xhyve({keys}): *"])


def test_every_key_of_the_marker_is_listed_in_its_error() -> None:
    fields = [*dataclasses.fields(GuestSpec), *dataclasses.fields(Restriction)]
    assert sorted(_MARKER_KEYS) == sorted(field.name for field in fields)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("image='tiny', cpu=2", "*test_marked: @pytest.mark.xhyve: a guest has no 'cpu'; did you mean cpus*"),
        ("cpus=0", "*@pytest.mark.xhyve: cpus: 0 is not a whole number*"),
        ("memory='much'", "*@pytest.mark.xhyve: memory: 'much' is not a size*"),
        ("name='a b'", "*@pytest.mark.xhyve: name: 'a b' is not a host name*"),
        ("'tiny'", "*takes keywords only: image, cpus, memory, disks, disk_size, firmware, network, name*"),
        ("disks='1G'", "*@pytest.mark.xhyve: disks: '1G' is not a list of sizes; write*"),
        ("disks=['1G', '0']", "*@pytest.mark.xhyve: disks: '0' is not a size*"),
        ("disks=['-1G']", "*@pytest.mark.xhyve: disks: '-1G' is not a size*"),
        ("disks=['1000K']", "*@pytest.mark.xhyve: disks: '1000K' is 1024000 bytes; a disk has from 1M to 16T*"),
        ("disks=['1G'] * 30", "*@pytest.mark.xhyve: disks: 30 disks are too many; a guest can have 20 empty ones*"),
        ("network='off'", "*@pytest.mark.xhyve: network: 'off' is not one of nat, isolated, none*"),
        ("firmware='efi'", "*@pytest.mark.xhyve: firmware: 'efi' is not one of bios, uefi; did you mean uefi*"),
        ("disk_size='x'", "*@pytest.mark.xhyve: disk_size: 'x' is not a size*"),
        ("disk_size='2000001'", "*@pytest.mark.xhyve: disk_size: *is not a multiple of 512*"),
        ("only=3", "*@pytest.mark.xhyve: only: 3 is not an image: give a name, a dict such as*"),
        ("only=[]", "*@pytest.mark.xhyve: only: [[][]] is not an image*"),
        ("only={'distr': 'debian'}", "*@pytest.mark.xhyve: only: an image states no 'distr'; did you mean distro*"),
        ("skip_on={'version': 12}", "*@pytest.mark.xhyve: skip_on: version: 12 is not a text such as version='12'*"),
        ("skip_on={'init': []}", "*@pytest.mark.xhyve: skip_on: init: an empty list matches no image*"),
        ("disk_size='17T'", "*@pytest.mark.xhyve: disk_size: *a disk has from 1M to 16T*"),
    ],
)
def test_invalid_marker_ends_the_run_before_any_test(pytester: pytest.Pytester, marker: str, message: str) -> None:
    pytester.makepyfile(
        f"""
        import pytest

        def test_before(): pass

        @pytest.mark.xhyve({marker})
        def test_marked(xhyve_guest): pass
        """
    )
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


def test_marker_that_does_not_reach_the_guest_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.xhyve(cpus=2)
        def test_marked(xhyve_module_guest): pass
        """
    )
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*does not reach xhyve_module_guest*pytestmark*"])


@pytest.mark.parametrize(
    ("tests", "words"),
    [
        (
            """
            small = pytest.mark.xhyve(memory="192M")

            @small
            def test_own(xhyve_guest): pass

            @small
            def test_shared(xhyve_session_guest): pass
            """,
            "*test_shared: *does not reach xhyve_session_guest*",
        ),
        (
            """
            @pytest.mark.xhyve(image="tiny")
            def test_marked(xhyve_guest_factory): pass
            """,
            "*does not reach xhyve_guest_factory*",
        ),
    ],
    ids=["a marker used twice", "the factory"],
)
def test_marker_that_reaches_no_guest(pytester: pytest.Pytester, tests: str, words: str) -> None:
    pytester.makepyfile("import pytest\n" + dedent(tests))
    result = pytester.runpytest_inprocess("--collect-only")
    result.stderr.fnmatch_lines([words])


def test_invalid_marker_does_not_hide_the_list_of_fixtures(pytester: pytest.Pytester) -> None:
    """The user may need the list of fixtures to correct a marker."""
    pytester.makepyfile("import pytest\n@pytest.mark.xhyve(memry=1)\ndef test_marked(xhyve_guest): pass")
    result = pytester.runpytest_inprocess("--fixtures")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["xhyve_guest -- *"])


@pytest.mark.thorough
def test_invalid_marker_is_reported_with_xdist(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.xhyve(imag="tiny")
        def test_marked(xhyve_guest): pass

        def test_plain(): pass
        """
    )
    result = pytester.runpytest_subprocess("-n", "1")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*a guest has no 'imag'; did you mean image*"])


def test_marker_on_the_module_reaches_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.xhyve(cpus=2)

        def test_marked(xhyve_module_guest): pass
        """
    )
    assert pytester.runpytest_inprocess("--collect-only").ret == 0


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("a='tiny', b={'cpu': 2}", "*@pytest.mark.xhyve_guests: b: a guest has no 'cpu'; did you mean cpus*"),
        ("nodes=0", "*@pytest.mark.xhyve_guests: nodes: 0 is not a whole number from 1"),
        ("3", "*@pytest.mark.xhyve_guests takes keywords only: *"),
        ("nodes=2, reset=True", "*reset=True is for clusters that tests share*"),
        ("a='no-such-image'", "*no-such-image*"),
    ],
)
def test_invalid_cluster_ends_the_run_before_any_test(pytester: pytest.Pytester, marker: str, message: str) -> None:
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.xhyve_guests({marker})
        def test_marked(xhyve_guests): pass
        """
    )
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


def test_cluster_without_guests_ends_the_run_before_any_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_bare(xhyve_guests): pass")
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *test_bare: @pytest.mark.xhyve_guests: a cluster needs guests: *"])


def test_cluster_runs_once_on_each_image_unless_it_names_them(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.xhyve_guests(a="tiny", b="debian12")
        def test_named(xhyve_guests): pass

        @pytest.mark.xhyve_guests(a="tiny", b=None)
        def test_on_each(xhyve_guests): pass
        """
    )
    result = pytester.runpytest_inprocess("--collect-only", "-q", "--xhyve-image=tiny", "--xhyve-image=debian12")
    assert [line.partition("::")[2] for line in result.stdout.lines if "::" in line] == [
        "test_named",
        "test_on_each[tiny]",
        "test_on_each[debian12]",
    ]


def test_restricted_tests_are_skipped_with_the_reason(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.xhyve(only="debian12")
        def test_by_name(xhyve_guest): pass

        @pytest.mark.xhyve(only={"distro": "debian", "init": "systemd"})
        def test_by_init(xhyve_guest): pass

        @pytest.mark.xhyve(skip_on=["tiny", {"version": ["12", "13"]}])
        def test_on_neither(xhyve_guest): pass

        @pytest.mark.xhyve(skip_on={"init": "systemd"})
        class TestNearest:
            @pytest.mark.xhyve(skip_on="tiny")
            def test_nearest(self, xhyve_guest): pass

        @pytest.mark.xhyve(only="tiny")
        @pytest.mark.xhyve_guests(a="tiny", b="debian12")
        def test_cluster(xhyve_guests): pass

        def test_free(xhyve_guest): pass
        """
    )
    result = pytester.runpytest_inprocess("--setup-plan", "-rs", "--xhyve-image=tiny", "--xhyve-image=debian12")
    skipped = sorted(line.partition(": ")[2] for line in result.stdout.lines if line.startswith("SKIPPED"))
    assert [line.split(": ", 1)[-1] for line in skipped] == [
        "not on tiny, and the image is tiny (distro debian, version 12, init busybox, arch x86_64)",
        "not on tiny, and the image is tiny (distro debian, version 12, init busybox, arch x86_64)",
        "not on version 12 or 13, and the image is debian12 (distro debian, version 12, init systemd, arch x86_64)",
        "only on debian12, and the image is tiny (distro debian, version 12, init busybox, arch x86_64)",
        "only on distro debian and init systemd, and the image is tiny (distro debian, version 12, init busybox, "
        "arch x86_64)",
        "only on tiny, and the image is debian12 (distro debian, version 12, init systemd, arch x86_64)",
    ]
