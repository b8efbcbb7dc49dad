from __future__ import annotations

import pytest
from facts import facts_of

from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.preparation.kernel import choose_kernel, own_parameters

TWO = ("vmlinuz-6.1.0-9-amd64", "initrd.img-6.1.0-9-amd64", "vmlinuz-6.1.0-10-amd64", "initrd.img-6.1.0-10-amd64")


def test_newest_kernel_with_an_initrd() -> None:
    boot = choose_kernel(facts_of(boot=(*TWO, "vmlinuz-6.9.0")))
    assert (boot.kernel, boot.initrd) == ("boot/vmlinuz-6.1.0-10-amd64", "boot/initrd.img-6.1.0-10-amd64")
    assert boot.cmdline == f"root=/dev/vda1 rw {own_parameters('x86_64')}"


def test_kernel_of_opensuse_for_arm64() -> None:
    """It has the name of the format, which on arm64 is not compressed, and next to it a file for debuggers."""
    version = "5.14.21-150500.53-default"
    boot = choose_kernel(
        facts_of(boot=(f"Image-{version}", f"vmlinux-{version}.gz", f"initrd-{version}", f"image-{version}.sig"))
    )
    assert (boot.kernel, boot.initrd) == (f"boot/Image-{version}", f"boot/initrd-{version}")


def test_boot_loader_of_debian_chooses() -> None:
    grub = b"""\
menuentry 'Debian' {
    linux   /boot/vmlinuz-6.1.0-9-amd64 root=UUID=abc ro  quiet net.ifnames=0 audit=0 acpi=off console=tty0
    initrd  /boot/initrd.img-6.1.0-9-amd64
}
"""
    boot = choose_kernel(facts_of(boot=TWO, files={"boot/grub/grub.cfg": grub}))
    assert boot.kernel == "boot/vmlinuz-6.1.0-9-amd64"
    assert boot.cmdline == f"root=UUID=abc rw audit=0 {own_parameters('x86_64')}"
    assert boot.source == "/boot/grub/grub.cfg"


def test_boot_loader_specification_of_fedora() -> None:
    entry = b"""\
title Fedora
linux /vmlinuz-6.8.5
initrd /initramfs-6.8.5.img $tuned_initrd
options root=UUID=f ro rootflags=subvol=root rhgb $tuned
"""
    facts = facts_of(
        boot=("vmlinuz-6.8.5", "initramfs-6.8.5.img"),
        files={"boot/loader/entries/a.conf": entry},
        root="/dev/vdb3 btrfs root",
    )
    boot = choose_kernel(facts)
    assert boot.initrd == "boot/initramfs-6.8.5.img"
    assert boot.cmdline.startswith("root=UUID=f rw rootflags=subvol=root console=ttyS0 ")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "boot/grub/grub.cfg",
            "linux16 /memtest\nlinux /vmlinuz root=/dev/sda1\n\tinitrd /ucode.img /our-initrd\nlinux /b\ninitrd /c\n",
        ),
        ("boot/loader/entries/a.conf", "linux /vmlinuz\ninitrd /our-initrd $tuned_initrd\noptions ro\n"),
        (
            "boot/extlinux.conf",
            "DEFAULT a\nLABEL a\n  KERNEL ../vmlinuz\n  INITRD ../ucode.img,../our-initrd\n  APPEND ro\n",
        ),
        (
            "boot/extlinux/extlinux.conf",
            "label a\n  append ro initrd=/our-initrd\n  linux /vmlinuz\nlabel b\n linux /b\n",
        ),
        ("boot/syslinux/syslinux.cfg", "LINUX /vmlinuz\nINITRD /our-initrd\n"),
    ],
)
def test_boot_loader_names_the_initrd(path: str, text: str) -> None:
    present = ("vmlinuz", "our-initrd", "ucode.img", "initrd.img", "c")
    boot = choose_kernel(facts_of(boot=present, files={path: text.encode()}))
    assert (boot.kernel, boot.initrd, boot.source) == ("boot/vmlinuz", "boot/our-initrd", f"/{path}")
    assert "initrd" not in boot.cmdline


def test_names_of_disks_are_those_of_the_guest() -> None:
    grub = b"linux /boot/vmlinuz-6.1.0-9-amd64 root=/dev/sda1 ro\n"
    boot = choose_kernel(facts_of(boot=TWO, files={"boot/grub/grub.cfg": grub}))
    assert boot.cmdline.startswith("root=/dev/vda1 rw ")


def test_root_on_a_logical_volume() -> None:
    boot = choose_kernel(facts_of(boot=TWO, root="/dev/mapper/vg-root xfs "))
    assert boot.cmdline.startswith("root=/dev/mapper/vg-root rw ")


def test_root_in_a_subvolume() -> None:
    boot = choose_kernel(facts_of(boot=TWO, root="/dev/vdb1 btrfs @"))
    assert boot.cmdline.startswith("root=/dev/vda1 rw rootflags=subvol=@ ")


def test_no_kernel() -> None:
    with pytest.raises(ImageError, match="no kernel found in /boot of Debian; /boot has: grub"):
        choose_kernel(facts_of(boot=("grub",)))
