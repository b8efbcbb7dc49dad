"""``pytest-xhyve run`` and ``shell``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from pytest_xhyve.cli.guest_options import (
    GUEST,
    LOOKUP,
    GuestCommand,
    check_image,
    load_settings,
    load_spec,
    machine_options,
    settings_options,
    typed_options,
)
from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.model.errors import ConfigurationError, XhyveError

if TYPE_CHECKING:
    from pytest_xhyve.host.runs import GuestRecord


@click.command(cls=GuestCommand, short_help="Run a command in a new guest, without a test.")
@click.argument("image")
@click.argument("command", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "-t",
    "--tty",
    "ttys",
    count=True,
    help="Run COMMAND on a terminal, for example for an editor; given twice, even if standard input is not a terminal.",
)
@click.option(
    "--save-as",
    metavar="NAME",
    callback=lambda _, __, name: _checked_name(name),
    help="If the exit code of COMMAND is 0, shut the guest down, and keep it as the image NAME, a layer over IMAGE.",
)
@machine_options
@settings_options(*GUEST)
def run(
    image: str,
    command: tuple[str, ...],
    ttys: int,
    save_as: str | None,
    disks: tuple[str, ...],
    disk_size: str | None,
    firmware: str | None,
    **options: Any,
) -> None:
    """Run COMMAND in a new guest of IMAGE, then remove the guest.

    IMAGE is the name of an image of the catalog, a recipe, a saved guest or a distribution, or the path of a disk, a
    manifest or a recipe. The image is built, prepared or downloaded first if necessary.

    COMMAND runs through OpenSSH and behaves as in `ssh guest COMMAND`: ssh joins its arguments with spaces for the
    guest's shell. Standard input, output and error belong to COMMAND; pytest-xhyve prints its own messages to standard
    error. All arguments after the first one of COMMAND belong to COMMAND. A "--" before COMMAND is optional.

    \b
      pytest-xhyve run tiny uname -r
      pytest-xhyve run debian12 --memory 1G -- make check < sources.tar
      pytest-xhyve run debian12 -t top
      pytest-xhyve run debian12 --save-as db -- "apt-get update && apt-get install -y postgresql"

    The exit code is that of COMMAND. It is 255 if the guest or the connection failed, or if a signal killed COMMAND. It
    is 128 plus the signal's number if a signal ended pytest-xhyve (Ctrl-C: 130), and 2 for a wrong option. In all
    cases, the guest is removed.
    """  # noqa: D301  # click wants the character
    from pytest_xhyve.cli.run_guest import run_command

    check_image(image, options)
    spec = load_spec(image, disks=disks, disk_size=disk_size, firmware=firmware)
    code = run_command(spec, load_settings(options), command, ttys=ttys, save_as=save_as, progress=Progress())
    raise click.exceptions.Exit(code)


@click.command(cls=GuestCommand, short_help="Log in to a new guest, without a test, or to a running one.")
@click.argument("image", metavar="IMAGE|GUEST")
@machine_options
@settings_options(*GUEST)
def shell(image: str, disks: tuple[str, ...], disk_size: str | None, firmware: str | None, **options: Any) -> None:
    """Log in to a new guest of IMAGE, or to the running GUEST; when the shell ends, a new guest is removed.

    GUEST is the name or the UUID of a running guest, as `pytest-xhyve ps` lists it; it takes no option of a new
    guest. IMAGE is as for `pytest-xhyve run`.

    The shell runs through OpenSSH and behaves as in `ssh guest`: "~." disconnects, "~?" lists the other escapes. If
    standard input is not a terminal, the shell reads its commands from it.

    \b
      pytest-xhyve shell debian12
      pytest-xhyve shell tiny < script.sh
      pytest-xhyve shell tiny-0

    The exit code is that of the shell. Other exit codes are those of `pytest-xhyve run`.
    """  # noqa: D301  # click wants the character
    from pytest_xhyve.cli.run_guest import run_shell
    from pytest_xhyve.cli.running_shell import run_shell_in

    if (running := _find_running(image, options)) is not None:
        _refuse_options(running)
        raise click.exceptions.Exit(run_shell_in(running))
    check_image(image, options)
    spec = load_spec(image, disks=disks, disk_size=disk_size, firmware=firmware)
    raise click.exceptions.Exit(run_shell(spec, load_settings(options), progress=Progress()))


def _find_running(wanted: str, options: Mapping[str, Any]) -> GuestRecord | None:
    """The running guest that *wanted* names; None if there is none, or if *wanted* names an image."""
    from pytest_xhyve.cli.guests import find_guest, find_running
    from pytest_xhyve.host.home import Home
    from pytest_xhyve.images.places import Places
    from pytest_xhyve.images.sources import find_source

    home = Home.of_user()
    try:
        find_source(wanted, places=Places.of(home, load_settings(options)))
    except ConfigurationError:
        try:
            named = any(wanted in (guest.name, guest.uuid) for guest in find_running(home))
        except XhyveError:
            # The name is wrong for an image, too, and that is the error to report.
            return None
        return find_guest(wanted, home) if named else None
    return None


def _refuse_options(running: GuestRecord) -> None:
    """Raise `ConfigurationError` if an option was typed that has no effect on the *running* guest."""
    without_effect = typed_options(click.get_current_context(), but=LOOKUP)
    if without_effect:
        raise ConfigurationError(
            f"{' and '.join(without_effect)} cannot be given for {running.name}, which runs already: only a new guest "
            "has options"
        )


def _checked_name(name: str | None) -> str | None:
    from pytest_xhyve.images.layers import check_name

    try:
        if name is not None:
            check_name(name)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from error
    return name
