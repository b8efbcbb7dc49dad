"""The answers to an installer's questions: the plugin's own, or the user's file."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from pytest_xhyve.model.architecture import X86_64
from pytest_xhyve.preparation.installer_disc import InstallerKind

# The plugin logs in by its key, which the preparation writes onto the disk; nothing else needs a password.
_PRESEED = """\
d-i debian-installer/locale string en_US.UTF-8
d-i keyboard-configuration/xkb-keymap select us
d-i netcfg/choose_interface select auto
d-i netcfg/get_hostname string {name}
d-i netcfg/get_domain string
d-i netcfg/wireless_wep string
d-i hw-detect/load_firmware boolean false
d-i mirror/country string manual
d-i mirror/http/hostname string {mirror_host}
d-i mirror/http/directory string {mirror_path}
d-i mirror/http/proxy string
d-i passwd/make-user boolean false
d-i passwd/root-login boolean true
d-i passwd/root-password-crypted password *
d-i clock-setup/utc boolean true
d-i time/zone string UTC
d-i clock-setup/ntp boolean false
d-i partman-auto/disk string /dev/vda
d-i partman-auto/method string regular
d-i partman-auto/choose_recipe select atomic
d-i partman-partitioning/confirm_write_new_label boolean true
d-i partman/choose_partition select finish
d-i partman/confirm boolean true
d-i partman/confirm_nooverwrite boolean true
d-i partman-basicfilesystems/no_swap boolean false
d-i apt-setup/cdrom/set-first boolean false
d-i base-installer/install-recommends boolean false
tasksel tasksel/first multiselect {tasks}
d-i pkgsel/include string {packages}
d-i pkgsel/upgrade select none
d-i pkgsel/update-policy select none
popularity-contest popularity-contest/participate boolean false
d-i grub-installer/only_debian boolean true
d-i grub-installer/with_other_os boolean true
d-i grub-installer/bootdev string /dev/vda
d-i finish-install/reboot_in_progress note
d-i cdrom-detect/eject boolean false
d-i debian-installer/exit/poweroff boolean true
"""
_MIRROR = ("deb.debian.org", "/debian")

CMDLINE: dict[InstallerKind, str] = {
    # The text frontend prints on the serial port what it does. Without TERM=dumb, it runs in GNU Screen, which prints
    # the time each minute, so that an installer that waits would never be silent.
    "preseed": f"auto=true priority=critical DEBIAN_FRONTEND=text TERM=dumb console={X86_64.console} ---",
    "autoinstall": f"autoinstall ds=nocloud console={X86_64.console} ---",
}
"""The kernel's command line that lets an installer run without a person."""


def preseed(name: str, packages: Sequence[str] = (), mirror: tuple[str, str] = _MIRROR) -> bytes:
    """The preseed file for Debian's installer (Debian Installation Guide, appendix B).

    Args:
        name: the host name.
        packages: packages beside the SSH server.
        mirror: host and path of the package mirror.
    """
    host, path = mirror
    text = _PRESEED.format(
        name=name,
        mirror_host=host,
        mirror_path=path,
        tasks="standard",
        packages=" ".join(["openssh-server", *packages]),
    )
    return text.encode()


def autoinstall(name: str, packages: Sequence[str] = ()) -> bytes:
    """The user-data for Ubuntu's installer (Autoinstall configuration reference manual).

    Args:
        name: the host name.
        packages: packages beside the SSH server.
    """
    content = {
        "autoinstall": {
            "version": 1,
            "locale": "en_US.UTF-8",
            "keyboard": {"layout": "us"},
            # The installer wants a user; no password matches "*".
            "identity": {"hostname": name, "username": "ubuntu", "password": "*"},
            "ssh": {"install-server": True, "allow-pw": False},
            "storage": {"layout": {"name": "direct"}},
            "packages": list(packages),
            "updates": "security",
            "shutdown": "poweroff",
        }
    }
    return b"#cloud-config\n" + yaml.safe_dump(content, sort_keys=False).encode()
