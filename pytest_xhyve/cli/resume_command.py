"""The command ``pytest-xhyve resume``."""

from __future__ import annotations

from pathlib import Path

import click

from pytest_xhyve.cli.guest_options import GuestCommand, load_settings
from pytest_xhyve.cli.progress import Progress


@click.command(cls=GuestCommand, short_help="Let the guests of a failed test go on from that moment.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("command", metavar="[COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--guest",
    metavar="NAME",
    help="The guest for the shell or COMMAND (default: the one whose last command failed, or the test's first one).",
)
@click.option(
    "--pytest", "run_pytest", is_flag=True, help="Run the failed test again with these guests; COMMAND is for pytest."
)
@click.option("--console", is_flag=True, help="Attach to the guest's console; Ctrl-] leaves. This needs no login.")
@click.option(
    "--gdb",
    is_flag=True,
    help="Keep the guest paused until gdb, whose command line is shown, lets it go on; attach to its console.",
)
@click.option(
    "--frozen-clock", is_flag=True, help="Let the guest's clock go on from the failure (default: set it to now)."
)
@click.option(
    "--image",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The manifest of the guest's image (default: found by its content in the cache folder).",
)
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The private key that the guest accepts (default: the image's).",
)
@click.option("--executable", metavar="PATH", help="Path of QEMU (default: looked up in PATH).")
@click.option("--accel", metavar="NAME", help="QEMU's acceleration: auto, kvm, hvf or tcg (default: auto).")
@click.option("--timeout-factor", metavar="X", help="Factor for all time limits, for slow hosts (default: 1).")
def resume(
    bundle: Path,
    command: tuple[str, ...],
    guest: str | None,
    image: Path | None,
    key: Path | None,
    *,
    run_pytest: bool,
    console: bool,
    gdb: bool,
    frozen_clock: bool,
    **options: str | None,
) -> None:
    """Let the guests that a failed test had go on, from the moment of the failure, and log in to one of them.

    BUNDLE is a file that `pytest --xhyve-save-failures` wrote. Each call starts a fresh copy; BUNDLE does not change.
    The guests end when the shell or COMMAND ends.

    \b
      pytest-xhyve resume xhyve-failures/test_web.py-test_login.xhyve
      pytest-xhyve resume test_login.xhyve -- journalctl -n 50
      pytest-xhyve resume test_login.xhyve --console
      pytest-xhyve resume test_login.xhyve --pytest -- --pdb

    Where the memory cannot be restored, for example under another version of QEMU, the guests boot from their disks,
    and the command reports that. The exit code is that of the shell or COMMAND; others are those of `pytest-xhyve run`.
    """  # noqa: D301  # click wants the character
    from pytest_xhyve.cli import resume_guests

    if (console or gdb) and command:
        raise click.UsageError("--console and --gdb have no command")
    if run_pytest:
        from pytest_xhyve.cli.resume_test import run_test

        if console or gdb or guest:
            raise click.UsageError("--pytest is for all guests of the test; --console, --gdb and --guest are not")
        run_test(bundle, command, {"image": image, "key": key}, options, frozen_clock=frozen_clock)
    code = resume_guests.resume(
        bundle,
        load_settings(options),
        resume_guests.Wanted(guest, command, console, gdb),
        image=image,
        key=key,
        frozen_clock=frozen_clock,
        progress=Progress(),
    )
    raise click.exceptions.Exit(code)
