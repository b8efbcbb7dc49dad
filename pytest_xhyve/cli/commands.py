"""The commands of ``pytest-xhyve``."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from pytest_xhyve.cli.guest_options import (
    ADVICE,
    DiskCommand,
    GuestCommand,
    guest_options,
    load_settings,
    load_spec,
    machine_options,
    places_options,
)
from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.cli.resume_command import resume
from pytest_xhyve.cli.running_command import console, top
from pytest_xhyve.cli.screenshot_command import screenshot
from pytest_xhyve.model.errors import ConfigurationError, XhyveError

if TYPE_CHECKING:
    from pytest_xhyve.host.runs import GuestRecord

_ANSWERS = "Your own preseed file, or autoinstall data (default: the plugin's, with an SSH server)."


class _Commands(click.Group):
    """Shows the plugin's errors as a message, not as a traceback."""

    def invoke(self, context: click.Context) -> object:
        from pytest_xhyve.host.home import Home

        try:
            home = Home.of_user()
        except XhyveError:
            # A command that needs the cache folder reports this itself; `doctor` has a finding for it.
            explaining: AbstractContextManager[None] = nullcontext()
        else:
            explaining = home.explain_os_errors()
        try:
            with explaining:
                return super().invoke(context)
        except XhyveError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                # The reader of the output has closed its end; click handles this.
                raise
            raise click.ClickException(f"{error}\n  {ADVICE}") from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pytest-xhyve")
def main() -> None:
    """Disposable Linux guests for tests: build images, start guests by hand, and list what runs on this host."""
    for fd in range(3):
        # If a standard stream is closed, another file would get its number, and a child would read or write that file.
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


main.add_command(screenshot)
main.add_command(resume)
main.add_command(console)
main.add_command(top)


@main.command(cls=GuestCommand, short_help="Run a command in a new guest, without a test.")
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
@guest_options
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

    IMAGE is a name from the catalog (the image is built first if necessary), or the path of a disk or a manifest.

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

    _check_image(image, options)
    spec = load_spec(image, disks=disks, disk_size=disk_size, firmware=firmware)
    code = run_command(spec, load_settings(options), command, ttys=ttys, save_as=save_as, progress=Progress())
    raise click.exceptions.Exit(code)


@main.command(cls=GuestCommand, short_help="Log in to a new guest, without a test, or to a running one.")
@click.argument("image", metavar="IMAGE|GUEST")
@machine_options
@guest_options
def shell(image: str, disks: tuple[str, ...], disk_size: str | None, firmware: str | None, **options: Any) -> None:
    """Log in to a new guest of IMAGE, or to the running GUEST; when the shell ends, a new guest is removed.

    GUEST is the name or the UUID of a running guest, as `pytest-xhyve ps` lists it; the options do not apply. IMAGE is
    a name from the catalog (the image is built first if necessary), or the path of a disk or a manifest.

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
        raise click.exceptions.Exit(run_shell_in(running))
    _check_image(image, options)
    spec = load_spec(image, disks=disks, disk_size=disk_size, firmware=firmware)
    raise click.exceptions.Exit(run_shell(spec, load_settings(options), progress=Progress()))


def _find_running(wanted: str, options: Mapping[str, Any]) -> GuestRecord | None:
    """The running guest that *wanted* names; None if there is none, or if *wanted* names an image."""
    from pytest_xhyve.cli.guests import find_guest, find_running
    from pytest_xhyve.host.home import Home
    from pytest_xhyve.images.catalog import find_source
    from pytest_xhyve.images.places import Places

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


def _checked_name(name: str | None) -> str | None:
    from pytest_xhyve.images.layers import check_name

    try:
        if name is not None:
            check_name(name)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from error
    return name


def _check_image(image: str, options: Mapping[str, Any]) -> None:
    from pytest_xhyve.host.home import Home
    from pytest_xhyve.images.catalog import find_source
    from pytest_xhyve.images.places import Places

    places = Places.of(Home.of_user(), load_settings(options))
    try:
        find_source(image, places=places)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint="'IMAGE'") from error


@main.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Rebuild an image of the catalog even if it is up to date.")
@places_options
def build(names: tuple[str, ...], *, force: bool, **options: Any) -> None:
    """Build images of the catalog from Debian's packages, and the layers of your recipes.

    NAME is a name of the catalog, a name of a recipe in one of the folders of --recipes, or the path of a recipe. A
    build takes minutes. An image that is up to date is not built again. The command prints the path of each image's
    manifest.
    """
    from pytest_xhyve.cli.build import build_images

    for image in build_images(names, load_settings(options), force=force, progress=Progress()):
        click.echo(image.manifest)


@main.command(cls=DiskCommand, short_help="Install a system from an installer's ISO file.")
@click.argument("iso", type=click.Path(exists=True, dir_okay=False))
@click.argument("name")
@click.option("--answers", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help=_ANSWERS)
@click.option("--package", "packages", multiple=True, metavar="NAME", help="Install this package, too.")
@click.option("--size", default="8G", metavar="SIZE", help="Size of the disk (default: 8G).")
@click.option("--limit", default="2h", metavar="TIME", help="Limit of the installation, such as 90m (default: 2h).")
@guest_options
def install(
    iso: str, name: str, *, answers: str | None, packages: tuple[str, ...], size: str, limit: str, **options: Any
) -> None:
    """Run the unattended installation of ISO, and keep the disk as the image NAME.

    ISO is the disc of Debian's installer, of Ubuntu's up to 18.04 (both by preseed), or of Ubuntu's from 20.04 on (by
    autoinstall). Debian's asks a package mirror on the network. The first guest of NAME prepares the disk as any other.

    \b
      pytest-xhyve install debian-12-netinst.iso mydebian
      pytest-xhyve install --answers preseed.cfg --limit 4h ubuntu-18.04-server.iso ubuntu18
    """  # noqa: D301  # click wants the character
    from pytest_xhyve.cli.install import install_system

    manifest = install_system(
        iso,
        name,
        load_settings(options),
        answers=answers,
        packages=packages,
        size=size,
        limit=limit,
        progress=Progress(),
    )
    click.echo(manifest)


@main.command(short_help="Download images of distributions, or from an address.")
@click.argument("names", metavar="NAME|ADDRESS...", nargs=-1, required=True)
@click.option("--update", is_flag=True, help="Download the newest file of the name, if it is another one.")
@places_options
def pull(names: tuple[str, ...], *, update: bool, **options: Any) -> None:
    """Download images of distributions, such as debian-12 or ubuntu-24.04, and print the paths of the disks.

    NAME is a name of the plugin's list or of your own (--distributions). ADDRESS is https://HOST/FILE#sha256=DIGEST, or
    #sha512=. A download that was interrupted goes on where it ended. What was pulled stays the same until --update; the
    first guest prepares it as any other disk.

    \b
      pytest-xhyve pull debian-12
      pytest-xhyve pull --update ubuntu-24.04
    """  # noqa: D301  # click wants the character
    from pytest_xhyve.cli.pull import pull_images

    for pulled in pull_images(names, load_settings(options), update=update, progress=Progress()):
        click.echo(pulled.disk)


@main.command(cls=DiskCommand, short_help="Show what is known of an image or a disk.")
@click.argument("image")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with exact numbers.")
@guest_options
def show(image: str, *, as_json: bool, **options: Any) -> None:
    """Show what is known of IMAGE.

    IMAGE is the path of a disk, the path of a manifest, or a name from the catalog. Of a disk without a manifest, the
    command shows what is found on it: partitions, system, kernel, users, SSH server, network. The disk is
    only read, and nothing is prepared. Of any other image, the command shows what its manifest states.

    \b
      pytest-xhyve show ubuntu18.img
      pytest-xhyve show --json tiny
    """  # noqa: D301  # click wants the character
    import json

    from pytest_xhyve.cli.show import describe, lines
    from pytest_xhyve.model.text import printable

    _check_image(image, options)
    found = describe(image, load_settings(options), progress=Progress())
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for line in lines(found):
        click.echo(printable(line))


@main.command("boot-files", cls=DiskCommand, short_help="Copy kernel, initial RAM disk and command line of a disk.")
@click.argument("image")
@click.argument("folder", type=click.Path(file_okay=False))
@guest_options
def boot_files(image: str, folder: str, **options: Any) -> None:
    """Copy kernel, initial RAM disk and kernel command line of IMAGE into FOLDER, and print the paths of the copies.

    IMAGE is the path of a disk, the path of a manifest, or the name of an image of the catalog that is built. FOLDER is
    created if it is missing; it must be empty. Its files are vmlinuz, initrd.img (if the system has one) and cmdline.
    The disk is only read.

    \b
      pytest-xhyve boot-files ubuntu18.img boot
    """  # noqa: D301  # click wants the character
    from pathlib import Path

    from pytest_xhyve.cli.show import copy_out

    _check_image(image, options)
    for path in copy_out(image, Path(folder), load_settings(options), progress=Progress()):
        click.echo(path)


@main.command("import", cls=DiskCommand, short_help="Prepare a disk for guests ahead of time.")
@click.argument("disk")
@click.option("--name", help="The name of the image (default: the manifest's, or that of the file).")
@guest_options
def import_(disk: str, name: str | None, **options: Any) -> None:
    """Prepare DISK for guests, as the first test that uses it would, and print the manifest that describes the result.

    DISK is the path of a disk or of a manifest. A disk is in one of the formats raw, qcow2, vmdk, vdi, vhdx or vhd, and
    has a Linux with an SSH server. It is only read: what the preparation writes is kept in the cache folder. A disk
    that was prepared before is not prepared again.

    \b
      pytest-xhyve import ubuntu18.img
      pytest-xhyve import ubuntu18.img --name web > web.yaml
    """  # noqa: D301  # click wants the character
    import yaml

    from pytest_xhyve.cli.import_disk import import_disk
    from pytest_xhyve.images.manifest import as_manifest
    from pytest_xhyve.model.text import printable

    _check_image(disk, options)
    image = import_disk(disk, name, load_settings(options), progress=Progress())
    # The disk names its own system.
    click.echo(printable(yaml.safe_dump(as_manifest(image), sort_keys=False)), nl=False)


@main.command()
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


@main.command()
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


@main.command()
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


@main.command()
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="DAYS",
    help="Remove only what was not used for this long.",
)
@click.option(
    "--images", is_flag=True, help="Remove the images of the catalog, and unpacked and prepared disks, too; asks first."
)
@click.option("--yes", is_flag=True, help="With --images: do not ask.")
@click.option("-n", "--dry-run", is_flag=True, help="Only print what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with exact numbers.")
def prune(*, older_than: float, images: bool, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Free disk space: remove templates, earlier builds of images, and leftovers.

    What guests use is not removed. All that is removed can be made again, except for saved guests (--images).
    """
    import json

    from pytest_xhyve.cli.prune import find_candidates, remove
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
    kinds = ("image", "prepared disk", "layer", "saved image", "unpacked disk", "pulled disk")
    built = [candidate.name for candidate in candidates if candidate.kind in kinds]
    saved = [candidate.name for candidate in candidates if candidate.kind == "saved image"]
    if built and not (yes or dry_run):
        cost = f" The guests that were saved as {', '.join(saved)} are lost then." if saved else ""
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


@main.command()
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


if __name__ == "__main__":
    main()
