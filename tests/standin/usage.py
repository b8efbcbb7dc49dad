"""What ``-h`` and ``-v`` print."""

from __future__ import annotations

_BANNERS = {
    "v0.2.0": ("[-behuwxACHPWY] [-c vcpus] [-g <gdb port>] [-l <lpc>]", "AcCefghHlmpPsuUvwWxY"),
    "head": ("[-behuwxMACHPWY] [-c vcpus] [-F <pidfile>] [-g <gdb port>] [-l <lpc>]", "AcCefFghHlmMpPsuUvwWxY"),
    # Its second line still has -p.
    "hyperkit": ("[-behuwxMACHPWY] [-c vcpus] [-F <pidfile>] [-g <gdb port>] [-l <lpc>]", "AcCefFghHlmMPsuUvwWxY"),
}
# -p is told of by the builds of xhyve and understood by none; of -Y it is not told that it takes an argument.
_MEANINGS = {
    "A": "ACPI tables for the guest",
    "c": "how many cpus (1)",
    "C": "dump the guest's memory with the core",
    "e": "end at I/O that nothing handles",
    "f": "the firmware to start",
    "F": "the pidfile to write",
    "g": "the port for gdb",
    "h": "this help",
    "H": "vmexit when the guest halts",
    "l": "an LPC device, such as com1,stdio",
    "m": "memory in MB, or with a suffix",
    "M": "print the MAC address of the vmnet interface, and end",
    "p": "pin 'vcpu' to 'hostcpu'",
    "P": "vmexit when the guest pauses",
    "s": "a PCI slot, as <slot,driver,configinfo>",
    "u": "the RTC keeps UTC",
    "U": "the guest's uuid",
    "v": "the version of this build",
    "w": "ignore MSRs that are not implemented",
    "W": "virtio with a single MSI vector",
    "x": "the local APIC in x2APIC mode",
    "Y": "no MPtable",
}

_ABOUT_XHYVE = """\
xhyve is a port of FreeBSD's bhyve hypervisor to OS X that
works entirely in userspace and has no other dependencies.

"""
# As git describe names the commits, where there is no tag.
_VERSIONS = {
    "v0.2.0": ("v0.2.0", f"{_ABOUT_XHYVE}Homepage: https://github.com/mist64/xhyve\nLicense: BSD\n"),
    "head": ("v0.2.0-164-gdfbe09", f"{_ABOUT_XHYVE}Homepage: http://www.xhyve.xyz\nLicense: BSD\n"),
    "hyperkit": ("v0.20210107-16-g3cb0d5", "Homepage: https://github.com/docker/hyperkit\nLicense: BSD\n"),
}


def usage(program: str, build: str) -> str:
    """The usage text of *build*."""
    banner, letters = _BANNERS[build]
    lines = [
        f"Usage: {program} {banner}",
        f"       {' ' * len(program)} [-m mem] [-p vcpu:hostcpu] [-s <pci>] [-U uuid] -f <fw>",
        *(f"       -{letter}: {_MEANINGS[letter]}" for letter in letters),
    ]
    return "\n".join(lines) + "\n"


def version(program: str, build: str) -> str:
    """What ``-v`` prints."""
    number, about = _VERSIONS[build]
    return f"{program}: {number}\n\n{about}\n"
