"""``pytest-xhyve console`` and ``top``."""

from __future__ import annotations

import click


@click.command(short_help="Attach to the console of a running guest.")
@click.argument("guest")
def console(guest: str) -> None:
    """Attach to the serial console of GUEST; Ctrl-] leaves, and the guest goes on.

    GUEST is the name or the UUID of a running guest, as `pytest-xhyve ps` lists it: a guest of a running test, or a
    kept one. QEMU only, and one program at a time.

    \b
      pytest-xhyve console tiny-0
    """  # noqa: D301  # click wants the character
    from pytest_xhyve.cli.console_client import attach
    from pytest_xhyve.cli.guests import find_guest
    from pytest_xhyve.host.home import Home

    found = find_guest(guest, Home.of_user())
    attach(found.folder, found.name)


@click.command(short_help="Watch the running guests.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="The time between two looks.",
)
def top(interval: float) -> None:
    """Watch this user's running guests: their tests, how much they use, and the last line of their consoles.

    The keys are: up and down to choose a guest, c for its console, s for a shell in it, e to end it, q to leave.
    Without a terminal, the command prints one listing.

    \b
      pytest-xhyve top
    """  # noqa: D301  # click wants the character
    import sys

    from pytest_xhyve.cli import top as watching
    from pytest_xhyve.host.home import Home

    home = Home.of_user()
    if sys.stdin is not None and sys.stdout is not None and sys.stdin.isatty() and sys.stdout.isatty():
        watching.watch(home, interval)
    else:
        for line in watching.listing(home, interval):
            click.echo(line)
