"""Pictures of a guest's screen, where it has a graphics card."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import run_separately
from warm import fleet_of, is_warm

from pytest_xhyve import Guest
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.errors import NotSupported, XhyveError
from pytest_xhyve.model.machine import Machine
from pytest_xhyve.model.spec import GuestSpec

pytest_plugins = ["pytester"]


def with_card(machine: Machine) -> Machine:
    return replace(machine, graphics=True)


@pytest.fixture
def guest(said: list[str]) -> Iterator[Guest]:
    with fleet_of(Home.of_user(), said, start="warm") as fleet:
        yield fleet.start(ForegroundRequest(GuestSpec(), hook=with_card))


def pixels(png: Path) -> bytes:
    """The rows of the picture; PNG Specification, third edition."""
    content = png.read_bytes()
    at = content.index(b"IDAT")
    (length,) = struct.unpack(">I", content[at - 4 : at])
    return zlib.decompress(content[at + 4 : at + 4 + length])


def test_the_screen_shows_what_the_guest_writes(guest: Guest, tmp_path: Path) -> None:
    assert is_warm(guest)
    # Without a cursor, which blinks.
    guest.run("printf '\\033[?25l\\033[2J\\033[H' > /dev/tty1")
    empty = guest.screenshot(tmp_path / "new folder" / "empty.png")
    assert empty == tmp_path / "new folder" / "empty.png"
    guest.run("for i in 1 2 3 4 5; do echo ################ > /dev/tty1; done".replace("#", "M"))
    full = guest.screenshot(str(tmp_path / "full.png"))
    assert pixels(full) != pixels(empty)
    assert sum(pixels(full)) > sum(pixels(empty))
    # From another process.
    for number, wanted in enumerate((guest.name, guest.uuid)):
        other = tmp_path / "folder" / f"{number}.png"
        result = run_separately("screenshot", wanted, str(other))
        assert (result.exit_code, result.stdout) == (0, ""), result.stderr
        is_the_same = pixels(other) == pixels(full)
        assert is_the_same
    result = run_separately("screenshot", f"{guest.name}x", str(tmp_path / "none.png"))
    assert f"no guest named '{guest.name}x' is running; did you mean {guest.name}" in result.stderr
    folder = guest.console.path.parent
    assert not list(folder.rglob("*.ppm"))
    guest.kill()
    with pytest.raises(XhyveError, match="is off"):
        guest.screenshot(tmp_path / "off.png")


@pytest.mark.run_under("warm", "xhyve")
@pytest.mark.xhyve(image="tiny")
def test_guest_without_a_card(xhyve_guest: Guest, tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="has no graphics card"):
        xhyve_guest.screenshot(tmp_path / "screen.png")
    result = run_separately("screenshot", xhyve_guest.name, str(tmp_path / "screen.png"))
    assert result.exit_code == 1
    assert "has no graphics card" in result.stderr or "only QEMU has a screen" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_picture_of_a_guest_that_does_not_boot(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from dataclasses import replace

        def pytest_xhyve_machine(machine):
            return replace(machine, graphics=True, cmdline=f"{machine.cmdline} rdinit=/none")
        """
    )
    pytester.makepyfile("def test_guest(xhyve_guest): pass")
    options = ("--xhyve-image=tiny", "--xhyve-hypervisor=qemu", "--xhyve-start=cold")
    result = pytester.runpytest_subprocess(*options, "--xhyve-artifacts=kept")
    result.assert_outcomes(errors=1)
    (picture,) = pytester.path.glob("kept/*/*/screen.png")
    assert any(pixels(picture))
    result.stdout.fnmatch_lines([f"screen: {picture}"])
    result = pytester.runpytest_subprocess(*options)
    result.stdout.fnmatch_lines(["screen: --xhyve-artifacts=DIR keeps a picture of it"])
