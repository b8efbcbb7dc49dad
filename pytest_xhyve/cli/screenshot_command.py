"""``pytest-xhyve screenshot``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Save a picture of a running guest's screen.")
@click.argument("guest")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def screenshot(guest: str, file: Path) -> None:
    """Save a picture of the screen of GUEST as the PNG file FILE.

    GUEST is the name or the UUID of a running guest, as `pytest-xhyve ps` lists it: a guest of a running test, or a
    kept one. The guest needs a graphics card: guests that boot by firmware have one. QEMU only.

    \b
      pytest-xhyve screenshot ubuntu18-0 screen.png
    """  # noqa: D301  # click wants the character
    from pytest_xhyve.cli.guests import find_guest
    from pytest_xhyve.host.home import Home
    from pytest_xhyve.hypervisors.qemu.monitor import dump_screen_of
    from pytest_xhyve.model.errors import NotSupported, XhyveError

    found = find_guest(guest, Home.of_user())
    if found.hypervisor != "qemu":
        raise NotSupported(f"guest {found.name} runs under {found.hypervisor}; only QEMU has a screen to show")
    picture = dump_screen_of(found.folder, found.name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture)
    except OSError as error:
        raise XhyveError(f"cannot write {file}: {error.strerror}") from error
