"""Install a system from an installer's disc onto a new disk, without a person."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from uuid import uuid4

from pytest_xhyve.guest.console import Console
from pytest_xhyve.host.disk_size import create_empty_disks
from pytest_xhyve.host.locks import locked
from pytest_xhyve.hypervisors.base import ExitReason, VirtualMachine
from pytest_xhyve.images.initrd import Entry, cpio_archive
from pytest_xhyve.images.layers import INSTALLED, MANIFEST, check_name
from pytest_xhyve.images.publishing import new_workspace, seal, write_manifest
from pytest_xhyve.model.architecture import X86_64
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Machine, Nic
from pytest_xhyve.model.text import printable
from pytest_xhyve.preparation.answers import CMDLINE, autoinstall, preseed
from pytest_xhyve.preparation.installer_disc import InstallerDisc, read_installer_disc
from pytest_xhyve.preparation.run_context import RunContext

_LOOK_SECONDS = 1.0
# How the text frontend of Debian's installer ends a question, and an error (cdebconf, frontend/text/text.c).
_QUESTION = re.compile(r"(\[Press enter to continue\]|Prompt: .*\?.* for help.*>)\s*$")
_REPORT_SECONDS = 15.0
_LINES = 15
_REGULAR_FILE = 0o100644


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """How a system is installed.

    Attributes:
        size: the size of the disk, in bytes.
        memory: bytes of memory of the machine.
        cpus: its virtual CPUs.
        answers: the user's own preseed file or autoinstall data; None for the plugin's.
        packages: packages that the plugin's answers add.
        limit: seconds for the whole installation.
        silence: seconds without output on the console after which it counts as one that waits for a person.
        question: seconds without output after which a question on the console counts as one that has no answer.
    """

    size: int = 8 << 30
    memory: int = 1 << 30
    cpus: int = 2
    answers: bytes | None = None
    packages: tuple[str, ...] = ()
    limit: float = 7200.0
    silence: float = 900.0
    question: float = 30.0


def install(iso: Path, name: str, options: InstallOptions, context: RunContext) -> Path:
    """Install the system of the disc *iso* as the image *name*; return the manifest of its disk.

    The disk is prepared by its first guest, as that of any other system.

    Raises:
        ConfigurationError: the file is not an installer's disc, or an image cannot have that name.
        ImageError: the installation failed, waits for an answer, or did not end in time; the message has the last
            lines of the console.
    """
    check_name(name)
    disc = read_installer_disc(iso)
    folder = context.home.folder(INSTALLED)
    wait = locked(folder / f"{name}.lock", f"installs {name}", report=context.events.progress)
    with wait, new_workspace(folder, name) as workspace:
        begin = monotonic()
        context.events.progress(f"installing {name} from {iso.name}: an installation takes long, above all if emulated")
        _install(iso, disc, name, options, context, workspace)
        content = {
            "name": name,
            "disk": next(path.name for path in workspace.glob("disk*") if path.suffix in (".qcow2", ".raw")),
            "made": {"installed_from": str(iso), "on": datetime.now(UTC).isoformat(timespec="seconds")},
        }
        seal(workspace / str(content["disk"]))
        write_manifest(workspace / MANIFEST, content)
        target = folder / name
        shutil.rmtree(target, ignore_errors=True)
        workspace.rename(target)
        context.events.progress(f"installed {name} in {(monotonic() - begin) / 60:.0f} min")
    return target / MANIFEST


def _install(
    iso: Path, disc: InstallerDisc, name: str, options: InstallOptions, context: RunContext, workspace: Path
) -> None:
    """Run the installer until it powers off."""
    with context.workspace() as temporary:
        kernel, initrd = temporary / "vmlinuz", temporary / "initrd"
        kernel.write_bytes(disc.kernel)
        cdroms = [iso.absolute()]
        if disc.kind == "preseed":
            answers = options.answers or preseed(name, options.packages)
            # The kernel unpacks one archive after the other; each begins at a multiple of four bytes.
            padded = disc.initrd + bytes(-len(disc.initrd) % 4)
            initrd.write_bytes(padded + cpio_archive([Entry("preseed.cfg", _REGULAR_FILE, answers)]))
        else:
            initrd.write_bytes(disc.initrd)
            cdroms.append(_write_seed(temporary / "seed.iso", options.answers or autoinstall(name, options.packages)))
        record = _as_image(name, workspace, iso)
        hypervisor = context.hypervisor_for(record)
        (disk,) = create_empty_disks([options.size], workspace, hypervisor.disk_formats)
        identity = hypervisor.identify(iter([uuid4() for _ in range(16)]))
        machine = Machine(
            name=name,
            uuid=identity.uuid,
            cpus=options.cpus,
            cpu=X86_64.default_cpu,
            memory=options.memory,
            disks=(disk,),
            nics=(Nic(identity.mac, ()),),
            kernel=kernel,
            initrd=initrd,
            cmdline=CMDLINE[disc.kind],
            cdroms=tuple(cdroms),
        )
        with (
            context.guard(name, replace(record, disk=disk.path)) as process,
            hypervisor.running(machine, process) as vm,
        ):
            _wait(vm, name, options, context)


def _wait(vm: VirtualMachine, name: str, options: InstallOptions, context: RunContext) -> None:
    console = Console(vm.console_log, vm.send_to_console, lambda: vm.exit_status() is not None)
    begin = changed = reported = monotonic()
    size = 0
    while vm.wait_for_exit(_LOOK_SECONDS) is None:
        now = monotonic()
        if console.size != size:
            size, changed = console.size, now
        if now - reported > _REPORT_SECONDS:
            reported = now
            last = (console.tail(1).strip() or "no output yet").splitlines()[-1]
            context.events.progress(f"  {now - begin:.0f} s: {printable(last)[-100:]}")
        if now - changed > options.question and _QUESTION.search(console.tail(1)):
            raise _failed(name, "it asks a question that has no answer", console)
        if now - changed > options.silence:
            raise _failed(name, f"the console was silent for {options.silence:g} s: it may wait for an answer", console)
        if now - begin > options.limit:
            raise _failed(name, f"it did not end within {options.limit:g} s", console)
    reason = vm.exit_reason()
    if reason is not ExitReason.POWERED_OFF:
        what = "the hypervisor exited" if reason is None else reason.value
        raise _failed(name, f"it did not power off at its end: {what}", console)


def _failed(name: str, what: str, console: Console) -> ImageError:
    lines = "".join(f"\n    {line}" for line in console.tail(_LINES).splitlines())
    return ImageError(
        f"cannot install {name}: {what}; last on the console:{lines or chr(10) + '    (nothing)'}\n"
        "  nothing of it is kept; give the answers to all questions in a file of your own: --answers FILE"
    )


def _write_seed(path: Path, user_data: bytes) -> Path:
    """A disc with the label that cloud-init's data source NoCloud looks for."""
    import pycdlib  # noqa: PLC0415

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, rock_ridge="1.09", vol_ident="cidata")
    for name, content in (("user-data", user_data), ("meta-data", b"")):
        short = name.replace("-", "_").upper()
        iso.add_fp(BytesIO(content), len(content), f"/{short}.;1", rr_name=name)
    iso.write(str(path))
    iso.close()
    return path


def _as_image(name: str, disk: Path, iso: Path) -> Image:
    """What listings show of the machine while it installs."""
    return Image(
        name=name,
        manifest=iso,
        arch=X86_64.name,
        disk=disk,
        format="qcow2",
        size=None,
        sha256=None,
        kernel=None,
        initrd=None,
        cmdline="",
        user="root",
        key=None,
        host_keys=(),
        cpus=1,
        memory=1 << 30,
        cpu=X86_64.default_cpu,
    )
