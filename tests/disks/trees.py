"""Root file systems of Debian 12, as archives: one as a cloud image has it, one as a person's installation has it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

USER, PASSWORD = "tester", "secret word"
"""The user of the installed system: sudo asks for the password."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A root file system.

    Attributes:
        name: one word.
        packages: the packages of Debian.
        hooks: shell commands that mmdebstrap runs at the end; ``$1`` is the root file system.
    """

    name: str
    packages: Sequence[str]
    hooks: Sequence[str]

    def build(self, archive: Path) -> None:
        """Write the root file system into the tar archive *archive*; it takes a minute or two."""
        subprocess.run(
            [
                "mmdebstrap",
                "--quiet",
                "--mode=unshare",
                "--variant=minbase",
                f"--include={','.join((*_EVERYWHERE, *self.packages))}",
                "--dpkgopt=path-exclude=/usr/share/man/*",
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*",
                *(f"--customize-hook={hook}" for hook in self.hooks),
                "bookworm",
                str(archive),
            ],
            check=True,
            cwd="/",
        )


_EVERYWHERE = (
    "busybox",
    "dbus",
    "init",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "libpam-systemd",
    "netbase",
    "openssh-server",
    "procps",
    "sudo",
    "udev",
)

_NO_IDENTITY = (
    'rm -f "$1"/etc/ssh/ssh_host_*',
    ': >"$1/etc/machine-id"',
)

CLOUD = Tree(
    name="cloud",
    packages=("cloud-init", "linux-image-cloud-amd64", "netplan.io", "python3"),
    hooks=_NO_IDENTITY,
)
"""As a distribution builds its cloud image: cloud-init, no user, no keys, no machine id."""

INSTALLED = Tree(
    name="installed",
    packages=("btrfs-progs", "ifupdown", "isc-dhcp-client", "linux-image-amd64", "lvm2", "xfsprogs"),
    hooks=(
        f'chroot "$1" useradd --create-home --shell /bin/bash --groups sudo {USER}',
        f"echo '{USER}:{PASSWORD}' | chroot \"$1\" chpasswd",
        'chroot "$1" passwd --lock root',
        "printf 'auto lo\\niface lo inet loopback\\n\\nallow-hotplug enp0s3\\niface enp0s3 inet dhcp\\n'"
        ' >"$1/etc/network/interfaces"',
        'echo box >"$1/etc/hostname"',
    ),
)
"""As a person installs it: a user with a password, a locked root, the network of the machine that it was."""

LABELLED = Tree(
    name="labelled",
    packages=(
        *("ifupdown", "isc-dhcp-client", "linux-image-cloud-amd64"),
        *("auditd", "policycoreutils", "selinux-policy-default", "selinux-utils"),
    ),
    hooks=(
        *_NO_IDENTITY,
        f'chroot "$1" useradd --create-home --shell /bin/bash {USER}',
        "printf 'SELINUX=enforcing\\nSELINUXTYPE=default\\n' >\"$1/etc/selinux/config\"",
    ),
)
"""SELinux is enforced: a file without a label is closed to all services."""
