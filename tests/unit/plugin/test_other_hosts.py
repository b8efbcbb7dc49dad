"""The controller of pytest-xdist brings images to the workers that have another cache folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_images import write_image

from pytest_xhyve.host.home import HOME_VARIABLE, Home

# It starts no guest: what the image is, is known before.
SUITE = """
    import pytest
    from pytest_xhyve.host.home import Home
    from pytest_xhyve.images.catalog import read_stated
    from pytest_xhyve.images.sources import find_source
    from pytest_xhyve.images.own_login import OwnLogin
    from pytest_xhyve.images.places import Places
    from pytest_xhyve.plugin.stash import settings_of

    @pytest.mark.parametrize("number", range(2))
    def test_image_is_here(request, number):
        settings, home = settings_of(request.config), Home.of_user()
        (wanted,) = settings.images
        image = read_stated(wanted, OwnLogin.of(settings), Places.of(home, settings)).image()
        assert image.disk.is_relative_to(home.path)
        assert image.key.is_relative_to(home.path)
        assert home.path.name == "other"
"""


@pytest.fixture
def other(tmp_path: Path) -> Home:
    return Home(tmp_path / "other")


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    pytester.makepyfile(SUITE)
    # Without arguments: xdist does not know where another worker has their files.
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "--dist=load", *options)


def tx(pytester: pytest.Pytester, other: Home, count: int) -> str:
    return f"--tx={count}*popen//env:{HOME_VARIABLE}={other.path}//chdir={pytester.path}"


@pytest.mark.thorough
def test_image_is_brought_once(pytester: pytest.Pytester, new_home: Home, other: Home, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    manifest = write_image(tmp_path / "project", "own")
    result = run(pytester, tx(pytester, other, 2), f"--xhyve-image={manifest}")
    result.assert_outcomes(passed=2, warnings=0)
    result.stdout.fnmatch_lines([f"xhyve: sending own to the cache folder {other.path}: own.img, 4 KiB"])
    result.stdout.fnmatch_lines([f"xhyve: the cache folder {other.path} has own now"])
    assert result.stdout.str().count(": own.img, ") == 1
    assert len(list(other.path.glob("layers/*/manifest.yaml"))) == 1
    again = run(pytester, tx(pytester, other, 1), f"--xhyve-image={manifest}")
    again.assert_outcomes(passed=2)
    again.stdout.no_fnmatch_line("*sending own*")


@pytest.mark.thorough
def test_image_that_cannot_be_brought(pytester: pytest.Pytester, new_home: Home, other: Home, tmp_path: Path) -> None:
    other.path.touch()
    result = run(pytester, tx(pytester, other, 1), f"--xhyve-image={write_image(tmp_path)}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: cannot bring the images to the cache folder {other.path}: *: Not a directory"]
    )


@pytest.mark.thorough
def test_run_that_names_no_image_brings_none(pytester: pytest.Pytester, new_home: Home, other: Home) -> None:
    pytester.makepyfile("def test_nothing(): pass")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--dist=load", tx(pytester, other, 1))
    result.assert_outcomes(passed=1)
    assert not other.path.exists()


@pytest.mark.thorough
def test_nothing_is_loaded_without_other_hosts(pytester: pytest.Pytester, new_home: Home, tmp_path: Path) -> None:
    pytester.makepyfile("def test_nothing(): pass")
    pytester.makeconftest(
        """
        import sys

        def pytest_unconfigure(config):
            print("loaded:", "pytest_xhyve.plugin.other_hosts" in sys.modules)
        """
    )
    result = pytester.runpytest_subprocess("-n1", f"--xhyve-image={write_image(tmp_path)}", "-s")
    result.stdout.fnmatch_lines(["loaded: False"])
