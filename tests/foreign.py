"""A disk as if it came from elsewhere."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from pytest_xhyve.host.home import Home
from pytest_xhyve.images.build import build_image

_PATH = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}


def debugfs(disk: Path, *commands: str) -> str:
    """Change the ext4 file system on the whole of *disk*, without mounting it (debugfs(8)); return what it printed."""
    done = subprocess.run(
        ["debugfs", "-w", "-f", "-", disk],
        input="\n".join(commands),
        text=True,
        check=True,
        capture_output=True,
        env=_PATH,
    )
    return done.stdout


def copy_disk(source: Path, target: Path) -> Path:
    """Copy a disk with its holes."""
    subprocess.run(["cp", "--sparse=always", source, target], check=True)
    target.chmod(0o600)
    return target


def make_foreign_disk(path: Path, changes: Iterable[str] = ()) -> Path:
    """tiny's disk at *path*, with an initial RAM disk in /boot, without the plugin's key and host key.

    Args:
        path: the new file.
        changes: more commands of debugfs.
    """
    image = build_image("tiny", Home.of_user(), print)
    assert image.initrd is not None
    copy_disk(image.disk, path)
    listing = debugfs(path, "ls -p /boot")
    version = next(name for name in listing.split("/") if name.startswith("vmlinuz-")).removeprefix("vmlinuz-")
    debugfs(
        path,
        f"write {image.initrd} /boot/initrd.img-{version}",
        "rm /root/.ssh/authorized_keys",
        "rm /etc/dropbear/dropbear_ed25519_host_key",
        *changes,
    )
    return path
