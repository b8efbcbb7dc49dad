"""``pytest-xhyve build``, ``install``, ``pull``, ``show``, ``boot-files`` and ``import``."""

from __future__ import annotations

from typing import Any

import click

from pytest_xhyve.cli.guest_options import (
    BOOT,
    HYPERVISOR,
    LOGIN,
    LOOKUP,
    MACHINE,
    PLACES,
    DiskCommand,
    check_image,
    load_settings,
    settings_options,
)
from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.model.architecture import ARCHITECTURES

_ANSWERS = "Your own preseed file, or autoinstall data (default: the plugin's, with an SSH server)."


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Rebuild an image of the catalog even if it is up to date.")
@click.option(
    "--arch", metavar="ARCH", help=f"Build for this processor: {' or '.join(ARCHITECTURES)} (default: this host's)."
)
@settings_options(*PLACES)
def build(names: tuple[str, ...], *, force: bool, arch: str | None, **options: Any) -> None:
    """Build images of the catalog from Debian's packages, and the layers of your recipes.

    NAME is a name of the catalog, a name of a recipe in one of the folders of --recipes, or the path of a recipe. A
    build takes minutes. An image that is up to date is not built again. The command prints the path of each image's
    manifest.

    With --arch, NAME is an image of the catalog, and NAME-ARCH becomes its name, as in `build tiny-aarch64`.
    """
    from pytest_xhyve.cli.build import build_images

    for image in build_images(names, load_settings(options), architecture=arch, force=force, progress=Progress()):
        click.echo(image.manifest)


@click.command(cls=DiskCommand, short_help="Install a system from an installer's ISO file.")
@click.argument("iso", type=click.Path(exists=True, dir_okay=False))
@click.argument("name")
@click.option("--answers", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help=_ANSWERS)
@click.option("--package", "packages", multiple=True, metavar="NAME", help="Install this package, too.")
@click.option("--size", default="8G", metavar="SIZE", help="Size of the disk (default: 8G).")
@click.option("--limit", default="2h", metavar="TIME", help="Limit of the installation, such as 90m (default: 2h).")
@settings_options(*HYPERVISOR, *MACHINE)
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


@click.command(short_help="Download images of distributions, or from an address.")
@click.argument("names", metavar="NAME|ADDRESS...", nargs=-1, required=True)
@click.option("--update", is_flag=True, help="Download the newest file of the name, if it is another one.")
@settings_options("distributions", "mirror", "offline")
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


@click.command(cls=DiskCommand, short_help="Show what is known of an image or a disk.")
@click.argument("image")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with exact numbers.")
@settings_options(*LOOKUP, *BOOT)
def show(image: str, *, as_json: bool, **options: Any) -> None:
    """Show what is known of IMAGE.

    IMAGE is the path of a disk, a manifest or a recipe, or the name of an image. Of a disk without a manifest, the
    command shows what is found on it: partitions, system, kernel, users, SSH server, network. The disk is
    only read, and nothing is prepared. Of any other image, the command shows what its manifest or recipe states.

    \b
      pytest-xhyve show ubuntu18.img
      pytest-xhyve show --json tiny
    """  # noqa: D301  # click wants the character
    import json

    from pytest_xhyve.cli.show import describe, lines
    from pytest_xhyve.model.text import printable

    check_image(image, options)
    found = describe(image, load_settings(options), progress=Progress())
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for line in lines(found):
        click.echo(printable(line))


@click.command("boot-files", cls=DiskCommand, short_help="Copy kernel, initial RAM disk and command line of a disk.")
@click.argument("image")
@click.argument("folder", type=click.Path(file_okay=False))
@settings_options(*LOOKUP, *BOOT)
def boot_files(image: str, folder: str, **options: Any) -> None:
    """Copy kernel, initial RAM disk and kernel command line of IMAGE into FOLDER, and print the paths of the copies.

    IMAGE is the path of a disk or a manifest, or the name of an image that is built or pulled. FOLDER is created if it
    is missing; it must be empty. Its files are vmlinuz, initrd.img (if the system has one) and cmdline.
    The disk is only read.

    \b
      pytest-xhyve boot-files ubuntu18.img boot
    """  # noqa: D301  # click wants the character
    from pathlib import Path

    from pytest_xhyve.cli.show import copy_out

    check_image(image, options)
    for path in copy_out(image, Path(folder), load_settings(options), progress=Progress()):
        click.echo(path)


@click.command("import", cls=DiskCommand, short_help="Prepare a disk for guests ahead of time.")
@click.argument("disk")
@click.option("--name", help="The name of the image (default: the manifest's, or that of the file).")
@settings_options(*PLACES, *LOGIN, *BOOT)
def import_(disk: str, name: str | None, **options: Any) -> None:
    """Prepare DISK for guests, as the first test that uses it would, and print the manifest that describes the result.

    If DISK is a folder that `pytest-xhyve export` wrote, the images in it are imported; each can be used by its name
    then. With --name, the folder must have one image. If DISK is -, the image comes from standard input. If it is
    oci://REGISTRY/REPOSITORY:TAG, the image comes from an OCI registry.

    DISK is the path of a disk or of a manifest. A disk is in one of the formats raw, qcow2, vmdk, vdi, vhdx or vhd,
    also compressed by xz, zstd or gzip, and has a Linux with an SSH server. It is only read: what the preparation
    writes is kept in the cache folder. A disk that was prepared before is not prepared again.

    \b
      pytest-xhyve import ubuntu18.img
      pytest-xhyve import ubuntu18.img --name web > web.yaml
      pytest-xhyve import exported
      pytest-xhyve import oci://registry.example/guests/debian12:1
    """  # noqa: D301  # click wants the character
    import yaml

    from pytest_xhyve.cli.exchange import find_exported, import_exported, import_from_registry, is_in_registry
    from pytest_xhyve.cli.import_disk import import_disk
    from pytest_xhyve.images.manifest import as_manifest
    from pytest_xhyve.model.text import printable

    if is_in_registry(disk):
        images = [import_from_registry(disk, name, load_settings(options), progress=Progress())]
    elif (exported := find_exported(disk)) is not None:
        images = import_exported(exported, name, progress=Progress())
    else:
        check_image(disk, options)
        images = [import_disk(disk, name, load_settings(options), progress=Progress())]
    # The disk names its own system.
    click.echo(printable(yaml.safe_dump_all(map(as_manifest, images), sort_keys=False)), nl=False)
