"""``pytest-xhyve export``, ``send`` and ``receive``."""

from __future__ import annotations

from typing import Any

import click

from pytest_xhyve.cli.guest_options import (
    BOOT,
    LOGIN,
    PLACES,
    DiskCommand,
    check_image,
    load_settings,
    settings_options,
)
from pytest_xhyve.cli.progress import Progress


@click.command(cls=DiskCommand, short_help="Write an image to a folder, a pipe or a registry, for another host.")
@click.argument("image")
@click.argument("target", metavar="FOLDER|-|oci://…")
@settings_options(*PLACES, *LOGIN, *BOOT)
def export(image: str, target: str, **options: Any) -> None:
    """Write IMAGE and all that is below it into FOLDER, with - to standard output, or to an OCI registry.

    IMAGE is a name, or the path of a disk, a manifest or a recipe; it is built or prepared first if need be. The
    command `pytest-xhyve import` reads what this one wrote. Several images may be in one folder; what they have in
    common is there once. The private key that logs in to the image's guests is part of it: only this user can read the
    folder. Let no other person read the repository in a registry. For a registry, install 'pytest-xhyve[oci]'.

    \b
      pytest-xhyve export debian12 exported
      pytest-xhyve export debian12 - | ssh other pytest-xhyve import -
      pytest-xhyve export debian12 oci://registry.example/guests/debian12:1
    """  # noqa: D301  # click wants the character
    from pytest_xhyve.cli.exchange import export_image

    check_image(image, options)
    export_image(image, load_settings(options), target, progress=Progress())


@click.command(cls=DiskCommand, short_help="Send an image to another host over ssh.")
@click.argument("image")
@click.argument("host", metavar="USER@HOST")
@click.option("--python", metavar="PATH", help="The Python on HOST that has pytest-xhyve (default: that of its PATH).")
@click.option("--ssh-config", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="As ssh -F.")
@settings_options(*PLACES, *LOGIN, *BOOT)
def send(image: str, host: str, *, python: str | None, ssh_config: str | None, **options: Any) -> None:
    """Bring IMAGE and all that is below it to another host, and print the path of its manifest there.

    Only the files that HOST does not have are sent. It imports the image as `pytest-xhyve import` does: afterwards,
    --xhyve-image=NAME finds it there. The system's ssh makes the connection, with your keys and known hosts. The
    private key that logs in to the image's guests is sent, too.

    \b
      pytest-xhyve send debian12 tester@host2
      pytest-xhyve send debian12 host2 --python .venv/bin/python
    """  # noqa: D301  # click wants the character
    from pytest_xhyve.cli.send import send_to

    check_image(image, options)
    settings, progress = load_settings(options), Progress()
    click.echo(send_to(image, host, settings, python=python, ssh_config=ssh_config, progress=progress))


@click.command(hidden=True)
def receive() -> None:
    """Import the image that `pytest-xhyve send` sends on standard input."""
    from pytest_xhyve.cli.send import receive_from_pipe

    receive_from_pipe()
