"""``pytest-xhyve ps``, ``reap``, ``images``, ``prune`` and ``doctor``."""

from __future__ import annotations

import os

import click

from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.model.errors import XhyveError


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all data about each guest.")
def ps(*, as_json: bool) -> None:
    """List this user's running guests, and how to log in to kept guests."""
    import json
    from dataclasses import asdict

    from pytest_xhyve.cli.guests import find_running, tabulate
    from pytest_xhyve.host.home import Home

    guests = find_running(Home.of_user())
    if as_json:
        click.echo(json.dumps([asdict(guest) for guest in guests], indent=2, default=str))
        return
    if not guests:
        click.echo("no guests", err=True)
        return
    for line in tabulate(guests):
        click.echo(line)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def reap(*, as_json: bool) -> None:
    """Remove the kept guests of finished runs, and everything that dead runs left; active runs are not touched."""
    import json

    from pytest_xhyve.cli import guests
    from pytest_xhyve.host.home import Home

    reaped = guests.reap(Home.of_user())
    if as_json:
        click.echo(json.dumps(reaped.as_json(), indent=2))
        return
    for line in reaped.lines():
        click.echo(line)
    if not (reaped.runs or reaped.guests):
        click.echo("nothing to remove", err=True)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with exact numbers.")
def images(*, as_json: bool) -> None:
    """List the images of the catalog, the layers over them, and the templates of guests."""
    import json

    from pytest_xhyve.cli.cache_listing import CacheListing
    from pytest_xhyve.host.home import Home

    listing = CacheListing.scan(Home.of_user())
    if as_json:
        click.echo(json.dumps(listing.as_json(), indent=2))
        return
    for line in listing.lines():
        click.echo(line)


@click.command()
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="DAYS",
    help="Remove only what was not used for this long.",
)
@click.option(
    "--images",
    is_flag=True,
    help="Remove images, too: those of the catalog, layers, saved guests, and disks that were pulled, unpacked, "
    "prepared or installed; asks first.",
)
@click.option("--yes", is_flag=True, help="With --images: do not ask.")
@click.option("-n", "--dry-run", is_flag=True, help="Only print what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with exact numbers.")
def prune(*, older_than: float, images: bool, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Free disk space: remove templates, earlier builds of images, and leftovers.

    What guests use is not removed. All that is removed can be made again, except for saved guests and
    installed systems (--images).
    """
    import json

    from pytest_xhyve.cli.prune import remove
    from pytest_xhyve.cli.prune_candidates import find_candidates
    from pytest_xhyve.host.home import Home
    from pytest_xhyve.model.values import format_size

    if yes and not images:
        raise click.UsageError("--yes needs --images")
    if as_json and images and not (yes or dry_run):
        raise click.UsageError("--json cannot ask: with --images, give --yes or --dry-run, too")
    home = Home.of_user()
    progress = Progress()
    with progress.activity(f"looking at {home.path}"):
        candidates = find_candidates(home, older_than=older_than * 86400, images=images)
    kinds = ("image", "prepared disk", "layer", "saved image", "unpacked disk", "installed system", "pulled disk")
    built = [candidate.name for candidate in candidates if candidate.kind in kinds]
    lost = [
        f"{text} {', '.join(names)}"
        for kind, text in (
            ("saved image", "the guests that were saved as"),
            ("installed system", "the installed systems"),
        )
        if (names := [candidate.name for candidate in candidates if candidate.kind == kind])
    ]
    if built and not (yes or dry_run):
        cost = f" Lost then: {'; '.join(lost)}." if lost else ""
        click.confirm(f"Remove {', '.join(built)}, too? Each takes minutes to make again.{cost}", abort=True, err=True)
    with progress.activity(f"{'looking at' if dry_run else 'removing'} {len(candidates)} candidates"):
        pruned = remove(candidates, home, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(pruned.as_json(dry_run=dry_run), indent=2))
        return
    would = "would " if dry_run else ""
    for candidate in pruned.removed:
        size = format_size(candidate.size)
        click.echo(f"{would}remove{'' if would else 'd'} {candidate.kind} {candidate.name}: {size}")
    for candidate, reason in pruned.kept:
        click.echo(f"kept {candidate.kind} {candidate.name}: {reason}", err=True)
    if pruned.removed:
        click.echo(f"{would}free{'' if would else 'd'} {format_size(pruned.freed)}")
    else:
        click.echo("nothing to remove", err=True)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--fix-vpn", is_flag=True, help="Let guests use all connected VPNs (macOS); asks first.")
@click.option("--yes", is_flag=True, help="With --fix-vpn: do not ask.")
def doctor(*, as_json: bool, fix_vpn: bool, yes: bool) -> None:
    """Check whether this host can run guests, and print a fix for each problem.

    The fix is one or more commands below the problem. The exit code is 1 if guests cannot run on this host.
    """
    import contextlib
    import shutil
    import sys

    from pytest_xhyve.doctor import vpn
    from pytest_xhyve.doctor.examine import examine
    from pytest_xhyve.doctor.programs import CommandRunner
    from pytest_xhyve.host.home import Home

    if (yes and not fix_vpn) or (as_json and fix_vpn):
        raise click.UsageError("--yes needs --fix-vpn, and --json cannot be used with it")
    if fix_vpn:
        fixed = vpn.fix_vpn(
            CommandRunner(),
            platform=sys.platform,
            euid=os.geteuid(),
            confirm=lambda question: yes or click.confirm(question),
            report=click.echo,
        )
        raise click.exceptions.Exit(0 if fixed else 1)
    home = None
    with contextlib.suppress(XhyveError):
        # If there is no cache folder, `examine` reports that as a finding.
        home = Home.of_user()
    with Progress().activity("checking this host"):
        report = examine(platform=sys.platform, home=home, programs=CommandRunner())
    if as_json:
        click.echo(report.as_json())
    else:
        on_terminal = sys.stdout is not None and sys.stdout.isatty()
        for line in report.lines(min(shutil.get_terminal_size().columns, 120) if on_terminal else 0):
            click.echo(line)
    raise click.exceptions.Exit(0 if report.runs_under else 1)
