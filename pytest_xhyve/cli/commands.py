"""The command line: ``pytest-xhyve``."""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager, nullcontext

import click

from pytest_xhyve.cli.guest_options import ADVICE, GuestCommand, guest_options, load_settings
from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.model.errors import ConfigurationError, XhyveError


class _Commands(click.Group):
    """Shows our errors as a message, not as a traceback."""

    def invoke(self, context: click.Context) -> object:
        from pytest_xhyve.host.home import Home

        try:
            home = Home.of_user()
        except XhyveError:
            # Whoever needs one says so; `doctor` has it among its findings.
            telling: AbstractContextManager[None] = nullcontext()
        else:
            telling = home.explain_os_errors()
        try:
            with telling:
                return super().invoke(context)
        except XhyveError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                # Whoever read our output has seen enough, which click knows.
                raise
            raise click.ClickException(f"{error}\n  {ADVICE}") from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pytest-xhyve")
def main() -> None:
    """Disposable Linux guests for tests: images, guests by hand, and what runs on this host."""
    for fd in range(3):
        # A standard stream that is closed would be the number of something of ours, which a child then reads or writes.
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@main.command(cls=GuestCommand, short_help="Run a command in a new guest, without a test.")
@click.argument("image")
@click.argument("command", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "-t",
    "--tty",
    "ttys",
    count=True,
    help="Run COMMAND on a terminal, as an editor wants it; given twice, also where there is none here.",
)
@guest_options
def run(image: str, command: tuple[str, ...], ttys: int, **options: str | None) -> None:
    """Run COMMAND in a new guest of IMAGE, then throw the guest away.

    IMAGE is a name of the catalog, built first where it has to be, or the path of a disk or a manifest.

    All is as with `ssh guest COMMAND`, for it is ssh that does it. The words of COMMAND are joined by spaces for the
    guest's shell. Standard input, output and error are the command's; what is said here goes to standard error. What
    stands after the first word of COMMAND belongs to it; "--" before it may, and need not, be written.

    \b
      pytest-xhyve run tiny uname -r
      pytest-xhyve run debian12 --memory 1G -- make check < sources.tar
      pytest-xhyve run debian12 -t top

    The exit code is the command's. Others are 255 where there was no guest or no connection, or a signal killed the
    command; 128 and its number when a signal (Ctrl-C: 130) ended this program; and 2 for a wrong option. However it
    ends, the guest is gone afterwards.
    """  # noqa: D301  # click wants the character
    from pytest_xhyve.cli.run_guest import run_command

    _check_image(image)
    code = run_command(image, load_settings(options), command, ttys=ttys, progress=Progress())
    raise click.exceptions.Exit(code)


@main.command(cls=GuestCommand, short_help="Log into a new guest, without a test.")
@click.argument("image")
@guest_options
def shell(image: str, **options: str | None) -> None:
    """Log into a new guest of IMAGE; when the shell ends, the guest is thrown away.

    IMAGE is a name of the catalog, built first where it has to be, or the path of a disk or a manifest.

    All is as with `ssh guest`, for it is ssh that does it: "~." hangs up, "~?" lists more such. Where standard input is
    no terminal, it is the shell's script.

    \b
      pytest-xhyve shell debian12
      pytest-xhyve shell tiny < script.sh

    The exit code is the shell's. Others are as those of `pytest-xhyve run`.
    """  # noqa: D301  # click wants the character
    from pytest_xhyve.cli.run_guest import run_shell

    _check_image(image)
    raise click.exceptions.Exit(run_shell(image, load_settings(options), progress=Progress()))


def _check_image(image: str) -> None:
    from pytest_xhyve.images.catalog import find_manifest

    try:
        find_manifest(image)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint="'IMAGE'") from error


@main.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Build it also when it is there and nothing has changed.")
def build(names: tuple[str, ...], *, force: bool) -> None:
    """Build images of the catalog from Debian's packages.

    This takes minutes, and is done once: what is there and has not changed is not built again. The paths of the images'
    manifests are printed.
    """
    from pytest_xhyve.host.home import Home
    from pytest_xhyve.images.build import build_image
    from pytest_xhyve.images.recipe import recipe_names
    from pytest_xhyve.model.values import suggest

    known = recipe_names()
    for name in names:
        if name not in known:
            raise click.UsageError(
                f"the catalog has no image {name!r}{suggest(name, known)} (names: {', '.join(known)})"
            )
    progress = Progress()
    for name in names:
        with progress.activity(f"building {name}"):
            image = build_image(name, Home.of_user(), progress.line, force=force)
        click.echo(image.manifest)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all that is known of each guest.")
def ps(*, as_json: bool) -> None:
    """List the guests of this user that are alive, and how to log in to those that were kept."""
    import json
    from dataclasses import asdict

    from pytest_xhyve.cli.guests import find_alive, tabulate
    from pytest_xhyve.host.home import Home

    guests = find_alive(Home.of_user())
    if as_json:
        click.echo(json.dumps([asdict(guest) for guest in guests], indent=2, default=str))
        return
    if not guests:
        click.echo("no guests", err=True)
        return
    for line in tabulate(guests):
        click.echo(line)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def reap(*, as_json: bool) -> None:
    """End the guests that runs have kept, and remove what dead ones left; runs that go on are spared."""
    import json

    from pytest_xhyve.cli import guests as alive
    from pytest_xhyve.host.home import Home

    reaped = alive.reap(Home.of_user())
    if as_json:
        click.echo(json.dumps(reaped.as_json(), indent=2))
        return
    for line in reaped.lines():
        click.echo(line)
    if not (reaped.runs or reaped.guests):
        click.echo("nothing to remove", err=True)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with exact numbers.")
def images(*, as_json: bool) -> None:
    """List the images of the catalog and the templates of guests."""
    import json

    from pytest_xhyve.cli.cache_listing import CacheListing
    from pytest_xhyve.host.home import Home

    stock = CacheListing.scan(Home.of_user())
    if as_json:
        click.echo(json.dumps(stock.as_json(), indent=2))
        return
    for line in stock.lines():
        click.echo(line)


@main.command()
@click.option(
    "--older-than", type=click.FloatRange(min=0), default=0.0, metavar="DAYS", help="Only what was not used that long."
)
@click.option("--images", is_flag=True, help="Also the images of the catalog; asks before it does.")
@click.option("--yes", is_flag=True, help="With --images: do not ask.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with exact numbers.")
def prune(*, older_than: float, images: bool, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Free the disk of templates, earlier images and leftovers.

    What guests use stays, and whatever goes can be made again.
    """
    import json

    from pytest_xhyve.cli.prune import find_pieces, remove
    from pytest_xhyve.host.home import Home
    from pytest_xhyve.model.values import format_size

    if yes and not images:
        raise click.UsageError("--yes goes with --images")
    if as_json and images and not (yes or dry_run):
        raise click.UsageError("--json asks nothing: with --images it takes --yes or --dry-run")
    home = Home.of_user()
    progress = Progress()
    with progress.activity(f"looking at {home.path}"):
        pieces = find_pieces(home, older_than=older_than * 86400, images=images)
    built = [piece.name for piece in pieces if piece.kind == "image"]
    if built and not (yes or dry_run):
        click.confirm(f"Remove {', '.join(built)} too, which take minutes to build again?", abort=True, err=True)
    with progress.activity(f"{'looking at' if dry_run else 'removing'} {len(pieces)} pieces"):
        pruned = remove(pieces, home, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(pruned.as_json(dry_run=dry_run), indent=2))
        return
    would = "would " if dry_run else ""
    for piece in pruned.removed:
        click.echo(f"{would}remove{'' if would else 'd'} {piece.kind} {piece.name}: {format_size(piece.size)}")
    for piece, why in pruned.kept:
        click.echo(f"kept {piece.kind} {piece.name}: {why}", err=True)
    if pruned.removed:
        click.echo(f"{would}free{'' if would else 'd'} {format_size(pruned.freed)}")
    else:
        click.echo("nothing to remove", err=True)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--fix-vpn", is_flag=True, help="Let guests use the VPNs that are up (macOS); asks before it does.")
@click.option("--yes", is_flag=True, help="With --fix-vpn: do not ask.")
def doctor(*, as_json: bool, fix_vpn: bool, yes: bool) -> None:
    """Say what keeps guests from running here, and what to do.

    What is wrong has commands below it that mend it. The exit code is 1 when no guest can run here.
    """
    import contextlib
    import shutil
    import sys

    from pytest_xhyve.doctor import vpn
    from pytest_xhyve.doctor.examine import examine
    from pytest_xhyve.doctor.programs import CommandRunner
    from pytest_xhyve.host.home import Home

    if (yes and not fix_vpn) or (as_json and fix_vpn):
        raise click.UsageError("--yes goes with --fix-vpn, and --json without it")
    if fix_vpn:
        mended = vpn.fix_vpn(
            CommandRunner(),
            platform=sys.platform,
            euid=os.geteuid(),
            confirm=lambda question: yes or click.confirm(question),
            report=click.echo,
        )
        raise click.exceptions.Exit(0 if mended else 1)
    home = None
    with contextlib.suppress(XhyveError):
        # Without one, that is a finding.
        home = Home.of_user()
    with Progress().activity("looking at this host"):
        report = examine(platform=sys.platform, home=home, programs=CommandRunner())
    if as_json:
        click.echo(report.as_json())
    else:
        on_terminal = sys.stdout is not None and sys.stdout.isatty()
        for line in report.lines(min(shutil.get_terminal_size().columns, 120) if on_terminal else 0):
            click.echo(line)
    raise click.exceptions.Exit(0 if report.runs_under else 1)


if __name__ == "__main__":
    main()
