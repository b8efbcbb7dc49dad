"""Which kernel of a disk boots, with which initial RAM disk and command line."""

from __future__ import annotations

import posixpath
import re
import shlex
from dataclasses import dataclass

from pytest_xhyve.model.architecture import ARCHITECTURES, find_architecture, host_architecture
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.text import is_number
from pytest_xhyve.preparation.facts import DISK, Facts

_INITRDS = ("initrd.img-{}", "initramfs-{}.img", "initrd-{}", "initrd-{}.img", "initramfs-{}", "initrd.gz-{}")
_KERNEL = re.compile(rf"(?:vmlinuz|kernel|{'|'.join(each.kernel_file for each in ARCHITECTURES.values())})(?:-(.+))?")
_GRUB_KERNEL, _GRUB_INITRD = "linux(?:16|efi)?", "initrd(?:16|efi)?"
# What belongs to the screen or to the boot loader, or keeps a guest of ours from booting or from being read.
_DROPPED = re.compile(
    r"BOOT_IMAGE=.*|initrd=.*|quiet|splash|rhgb|console=.*|vga=.*|root=.*|rootflags=.*|rootfstype=.*|ro|rw|acpi=off|"
    r"resume=.*|crashkernel=.*|vt\.handoff=.*|\$.*|systemd\.machine_id=.*|systemd\.hostname=.*|net\.ifnames=.*|biosdevname=.*"
)


@dataclass(frozen=True, slots=True)
class BootFiles:
    """The files of a direct boot.

    Attributes:
        kernel: path on the disk, without the first slash.
        initrd: path on the disk, or None.
        cmdline: the kernel's command line.
        source: where the choice comes from, for people.
    """

    kernel: str
    initrd: str | None
    cmdline: str
    source: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a boot loader; of more than one initial RAM disk, processors' microcode comes first."""

    kernel: str
    initrds: tuple[str, ...]
    parameters: tuple[str, ...]
    source: str

    def find_initrd(self, present: set[str]) -> str | None:
        """The name of the last initial RAM disk that is in /boot, or None."""
        names = [posixpath.basename(initrd) for initrd in self.initrds]
        return next((name for name in reversed(names) if name in present), None)


def own_parameters(arch: str) -> str:
    """Kernel parameters of guests: the console, the name of the card, and what shortens a boot on an emulated CPU.

    Args:
        arch: the name of the system's architecture.
    """
    architecture = find_architecture(arch) or host_architecture()
    common = "net.ifnames=0 mitigations=off cryptomgr.notests rcupdate.rcu_expedited=1"
    return " ".join([f"console={architecture.console}", common, *architecture.parameters])


def choose_kernel(facts: Facts) -> BootFiles:
    """The kernel that the disk's own boot loader would start, else the newest one.

    Raises:
        ImageError: the disk has no kernel.
    """
    present = set(facts.values.get("boot", ()))
    entry = _default_entry(facts)
    if entry is not None:
        name, source = posixpath.basename(entry.kernel), entry.source
    else:
        kernels = [name for name in present if _KERNEL.fullmatch(name)]
        if not kernels:
            raise ImageError(
                f"no kernel found in /boot of {facts.system}; /boot has: {', '.join(sorted(present)) or 'nothing'}\n"
                "  a disk for containers has none; install the distribution's package of the kernel in it, or state "
                "`kernel:` in a manifest"
            )
        name = max(kernels, key=lambda kernel: (_initrd(kernel, present) is not None, _version_key(kernel)))
        source = "the newest kernel in /boot"
    initrd = (entry and entry.find_initrd(present)) or _initrd(name, present)
    return BootFiles(f"boot/{name}", f"boot/{initrd}" if initrd else None, choose_cmdline(facts), source)


def choose_cmdline(facts: Facts) -> str:
    """The command line of the disk's own boot loader, if it has one, as a guest needs it."""
    entry = _default_entry(facts)
    parameters = () if entry is None else entry.parameters
    return " ".join([*_root_parameters(facts, parameters), *_kept(parameters), own_parameters(facts.architecture)])


def _default_entry(facts: Facts) -> _Entry | None:
    """The first entry of a boot loader whose kernel is there."""
    present = facts.values.get("boot", ())
    return next((entry for entry in _entries(facts) if posixpath.basename(entry.kernel) in present), None)


def _initrd(kernel: str, present: set[str]) -> str | None:
    match = _KERNEL.fullmatch(kernel)
    version = (match[1] if match else None) or ""
    names = [pattern.format(version) for pattern in _INITRDS] if version else ["initrd.img", "initrd", "initramfs.img"]
    return next((name for name in names if name in present), None)


def _version_key(kernel: str) -> tuple[tuple[int, int, str], ...]:
    parts = re.findall(r"\d+|[^\d]+", kernel)
    return tuple((1, int(part), "") if is_number(part) else (0, 0, part) for part in parts)


def _entries(facts: Facts) -> list[_Entry]:
    """The entries of the boot loaders that are configured, the default one first."""
    found = []
    # The Boot Loader Specification: Fedora and its relatives.
    paths = [path for path in facts.files if re.fullmatch(r"boot/(efi/)?loader/entries/[^/]+\.conf", path)]
    for path in sorted(paths, key=_version_key, reverse=True):
        keys = dict(re.findall(r"^(\w+)[ \t]+(.*)$", facts.text(path), re.MULTILINE))
        if "linux" in keys and "rescue" not in path:
            initrds, options = _split(keys.get("initrd", "")), _split(keys.get("options", ""))
            found.append(_Entry(keys["linux"].strip(), initrds, options, f"/{path}"))
    for path in ("boot/grub/grub.cfg", "boot/grub2/grub.cfg", "boot/efi/EFI/debian/grub.cfg"):
        # The line of the initial RAM disk is behind that of the kernel.
        for part in _parts(facts.text(path), _GRUB_KERNEL):
            kernel, *parameters = _words(part, _GRUB_KERNEL) or ("",)
            found.append(_Entry(kernel, _words(part, _GRUB_INITRD), tuple(parameters), f"/{path}"))
    for path in ("boot/extlinux/extlinux.conf", "boot/extlinux.conf", "boot/syslinux/syslinux.cfg"):
        text = facts.text(path)
        for part in _parts(text, "LABEL") or [text]:
            kernel, *_ = _words(part, "LINUX|KERNEL") or ("",)
            appended = _words(part, "APPEND")
            lists = [*_words(part, "INITRD"), *(word[7:] for word in appended if word.startswith("initrd="))]
            found.append(_Entry(kernel, tuple(",".join(lists).split(",")), appended, f"/{path}"))
    return found


def _parts(text: str, key: str) -> list[str]:
    """*text* from each line that begins with *key* to the next one."""
    return re.split(rf"^(?=[ \t]*(?:{key})[ \t])", text, flags=re.MULTILINE | re.IGNORECASE)[1:]


def _words(text: str, key: str) -> tuple[str, ...]:
    """The words behind *key* in the first line that begins with it."""
    line = re.search(rf"^[ \t]*(?:{key})[ \t]+(.*)$", text, re.MULTILINE | re.IGNORECASE)
    return () if line is None else _split(line[1])


def _split(line: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(line))
    except ValueError:
        return tuple(line.split())


def _root_parameters(facts: Facts, parameters: tuple[str, ...]) -> list[str]:
    """``root=`` and what belongs to it, as the guest will see the disk: it is ``/dev/vda`` there."""
    root = facts.roots[0]
    given = next((word for word in parameters if word.startswith("root=")), "")
    flags = [word for word in parameters if word.startswith(("rootflags=", "rootfstype="))]
    if re.match(r"root=(UUID|LABEL|PARTUUID|PARTLABEL)=|root=/dev/(mapper/|disk/|(?![hsv]d|nvme)[^/]+/)", given):
        source = given
    elif root.device.startswith("/dev/mapper/"):
        source = f"root={root.device}"
    else:
        source = f"root={root.device.replace(DISK, '/dev/vda')}"
    if root.subvolume and not any("subvol" in flag for flag in flags):
        flags.append(f"rootflags=subvol={root.subvolume}")
    # A system without an entry for its root in fstab does not make it writable itself.
    return [source, "rw", *flags]


def _kept(parameters: tuple[str, ...]) -> list[str]:
    return [word for word in parameters if not _DROPPED.fullmatch(word) and re.fullmatch(r"[\x21-\x7e]+", word)]
