"""``pytest-xhyve export``."""

from __future__ import annotations

from typing import Any

import click

from pytest_xhyve.cli.guest_options import DiskCommand, check_image, guest_options, load_settings
from pytest_xhyve.cli.progress import Progress


@click.command(cls=DiskCommand, short_help="Write an image to a folder or a pipe, for another host.")
@click.argument("image")
@click.argument("target", metavar="FOLDER|-")
@guest_options
def export(image: str, target: str, **options: Any) -> None:
    """Write IMAGE and all that is below it into FOLDER, or with - to standard output.

    IMAGE is a name, or the path of a disk, a manifest or a recipe; it is built or prepared first if need be. The
    command `pytest-xhyve import` reads what this one wrote. Several images may be in one folder; what they have in
    common is there once. The private key that logs in to the image's guests is part of it: only this user can read the
    folder.

    \b
      pytest-xhyve export debian12 exported
      pytest-xhyve export debian12 - | ssh other pytest-xhyve import -
    """  # noqa: D301  # click wants the character
    from pytest_xhyve.cli.exchange import export_image

    check_image(image, options)
    export_image(image, load_settings(options), target, progress=Progress())
