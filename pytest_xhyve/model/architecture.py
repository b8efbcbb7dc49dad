"""The processor architectures of guests: everything that differs between them, in one object each.

Other modules name no architecture. xhyve and hyperkit are x86 for good, so their folder is an exception, and so is the
agent's machine code.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, eq=False)
class Architecture:
    """One processor architecture.

    Attributes:
        name: as ``uname -m`` prints it on Linux.
        also: other words for it, in lower case: Debian's, macOS's, Windows'.
        debian: Debian's word, for mmdebstrap and names of packages.
        elf_machine: the number of the architecture in the header of programs (ELF's e_machine; gABI, chapter 4).
        package: Debian's package with QEMU's program.
        program: QEMU's program.
        machine: the value of QEMU's ``-machine``.
        emulated_cpus: the level that a userland needs → the value of QEMU's ``-cpu`` if it emulates. The first level is
            the least.
        default_cpu: the level of a manifest that states none.
        graphics: QEMU's device for a screen.
        console: the guest's serial port under QEMU.
        agent_port: the device of the agent's serial port in the guest.
        agent_device: QEMU's options for it, with the character device ``agent``.
        ram_start: the physical address of the first byte of memory.
        ram_hole: if the memory is in two parts: bytes of memory from which on this is so, bytes of the first part, and
            the physical address of the second one. Else None.
        parameters: kernel parameters that shorten a boot on an emulated CPU of this architecture.
        kernel: the format of its kernel, for messages.
        kernel_file: the name of the file that a build of the kernel makes; some systems keep it.
        firmware: where Debian, Fedora and others put QEMU's UEFI firmware: its code, and its variables.
        firmware_beside: the same, relative to QEMU's program (Homebrew, MacPorts).
        firmware_packages: the packages with it, of Debian and of Fedora.
        without_kvm: if a Linux host of this architecture has no ``/dev/kvm``: a hint, and the commands that help.
    """

    name: str
    also: frozenset[str]
    debian: str
    elf_machine: int
    package: str
    program: str
    machine: str
    emulated_cpus: Mapping[str, str]
    default_cpu: str
    graphics: str
    console: str
    agent_port: str
    agent_device: tuple[str, ...]
    ram_start: int
    ram_hole: tuple[int, int, int] | None
    parameters: tuple[str, ...]
    kernel: str
    kernel_file: str
    firmware: tuple[tuple[str, str], ...]
    firmware_beside: tuple[str, str]
    firmware_packages: tuple[str, str]
    without_kvm: tuple[str, str]

    def is_native(self, machine: str | None = None) -> bool:
        """Whether a host can run guests of this architecture without emulation.

        Args:
            machine: the host's processor as `platform.machine` names it; None for this host's.
        """
        word = (platform.machine() if machine is None else machine).lower()
        return word == self.name or word in self.also


X86_64 = Architecture(
    name="x86_64",
    also=frozenset({"amd64"}),
    debian="amd64",
    elf_machine=62,
    package="qemu-system-x86",
    program="qemu-system-x86_64",
    # These devices are off: the guest does not need them, and each makes its boot slower.
    machine="q35,usb=off,smbus=off,sata=off,vmport=off,hpet=off",
    # The levels of the x86-64 psABI. Emulated AVX is slow, so a guest gets no more than it needs.
    emulated_cpus=MappingProxyType({"x86-64-v1": "qemu64", "x86-64-v2": "Nehalem", "x86-64-v3": "max"}),
    default_cpu="x86-64-v2",
    graphics="VGA",
    console="ttyS0",
    agent_port="/dev/ttyS1",
    agent_device=("-serial", "chardev:agent"),
    ram_start=0,
    # q35's hole for devices (hw/i386/pc_q35.c in QEMU's sources).
    ram_hole=(0xB000_0000, 0x8000_0000, 1 << 32),
    parameters=("tsc=reliable", "no_timer_check"),
    kernel="a Linux kernel for x86-64 (a bzImage: /boot/vmlinuz-*, not vmlinux)",
    kernel_file="bzImage",
    # Debian and Ubuntu (4 MiB since 2022), Fedora, openSUSE, Arch.
    firmware=(
        ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
        ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
        ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
        ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
        ("/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"),
        ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
    ),
    # The variables serve x86_64, too.
    firmware_beside=("../share/qemu/edk2-x86_64-code.fd", "../share/qemu/edk2-i386-vars.fd"),
    firmware_packages=("ovmf", "edk2-ovmf"),
    without_kvm=(
        "if the first command prints 0, enable virtualization in the firmware, or in the virtual machine's host:",
        "grep -Ec 'vmx|svm' /proc/cpuinfo\nsudo modprobe -a kvm_intel kvm_amd",
    ),
)

ARM64 = Architecture(
    name="aarch64",
    also=frozenset({"arm64"}),
    debian="arm64",
    elf_machine=183,
    package="qemu-system-arm",
    program="qemu-system-aarch64",
    machine="virt",
    # ``max`` has pointer authentication, whose emulation makes a boot four times as long (tried with QEMU 7.2).
    emulated_cpus=MappingProxyType({"armv8.0": "cortex-a57", "armv8.2": "max,pauth-impdef=on"}),
    default_cpu="armv8.0",
    # virt has no VGA.
    graphics="virtio-gpu-pci",
    console="ttyAMA0",
    # virt has one serial port of its own. The place is behind those of all other cards.
    agent_port="/dev/ttyS0",
    agent_device=("-device", "pci-serial,chardev=agent,addr=0x1f"),
    # hw/arm/virt.c in QEMU's sources.
    ram_start=0x4000_0000,
    ram_hole=None,
    parameters=(),
    kernel="a Linux kernel for arm64 (an Image, a gzip file of one, or an EFI zboot file)",
    kernel_file="Image",
    firmware=(
        ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
        ("/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw"),
        ("/usr/share/qemu/aavmf-aarch64-code.bin", "/usr/share/qemu/aavmf-aarch64-vars.bin"),
    ),
    firmware_beside=("../share/qemu/edk2-aarch64-code.fd", "../share/qemu/edk2-arm-vars.fd"),
    firmware_packages=("qemu-efi-aarch64", "edk2-aarch64"),
    # Linux, arch/arm64/kvm/arm.c: KVM is not a module, and needs the processor's level for hypervisors.
    without_kvm=(
        'if this prints "HYP mode not available", the firmware, or the virtual machine\'s host, started Linux without '
        "the processor's level for hypervisors (EL2):",
        "sudo dmesg | grep -i kvm",
    ),
)


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({each.name: each for each in (X86_64, ARM64)})
"""All architectures, by their names."""


def host_architecture() -> Architecture:
    """The architecture of guests that state none: this host's; x86-64 on a host of another kind, which emulates it."""
    return next((each for each in ARCHITECTURES.values() if each.is_native()), X86_64)


def architecture_of(name: str) -> Architecture:
    """The architecture whose name an image's manifest states."""
    return ARCHITECTURES[name]


def find_architecture(word: str) -> Architecture | None:
    """The architecture that *word* means, as Linux, Debian or macOS name it; None if it means no known one."""
    return next((each for each in ARCHITECTURES.values() if each.is_native(word)), None)
