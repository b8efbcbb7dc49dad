"""xhyve from its command line to its guest's first instruction, in the order of main in src/xhyve.c of its sources."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from standin import kexec
from standin.board import Board
from standin.commandline import Build, CommandLine, Ended, NotSimulated, parse
from standin.devices import parse_uuid
from standin.faults import Faults
from standin.guest import Guest
from standin.process import Process
from standin.vmnet import uuid_text

_CPUS: Mapping[Build, int] = {"v0.2.0": 16, "head": 16, "hyperkit": 64}
_HV_NO_DEVICE = -85377018  # 0xfae94006, as an int
_EX_SOFTWARE = 70


def main(argv: Sequence[str], build: Build, folder: str) -> NoReturn:
    """Be an xhyve of *build*, on the Mac whose state is in *folder*."""
    process = Process()
    try:
        line = parse(argv, build)
        _run(line, build, Path(folder), process)
    except Ended as ended:
        process.print(ended.stdout)
        process.say(ended.stderr)
        process.exit(ended.code)
    except NotSimulated as missing:
        process.say(f"this is no xhyve but a stand-in, and cannot do this: {missing}\n")
        process.exit(_EX_SOFTWARE)
    except Exception:
        # Python would end with code 1, which could also be xhyve's.
        sys.excepthook(*sys.exc_info())
        process.exit(_EX_SOFTWARE)


def _run(line: CommandLine, build: Build, folder: Path, process: Process) -> NoReturn:
    faults = Faults.load(folder)
    if build == "hyperkit":
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if faults.hv_missing:
        process.print("vmx_init: processor not supported by Hypervisor.framework\n")
        raise Ended(1, stderr=f"Unable to create VM ({_HV_NO_DEVICE})\n")
    if line.cpus < 1:
        raise Ended(1, stderr=f"Invalid guest vCPUs ({line.cpus})\n")
    if line.cpus > _CPUS[build]:
        raise Ended(1, stderr=f"{line.cpus} vCPUs requested but only {_CPUS[build]} available\n")
    if line.pidfile is not None:
        _write_pidfile(line.pidfile, process)
    board = Board(line, build, folder, faults, process)
    board.add_all()
    if line.gdb_port:
        _open_debug_port(line.gdb_port, process)
    board.check_uuid()
    arguments = [*_arguments(line), *_load(line, process), *board.arguments]
    Guest(arguments, board, build, process, acpi=line.acpi).run()


def _write_pidfile(path: str, process: Process) -> None:
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except OSError:
        raise Ended(1, stderr="Failed to set up pidfile\npidfile error -1\n") from None

    def remove() -> None:
        try:
            Path(path).unlink()
        except OSError:
            process.say("Failed to remove pidfile\n")

    process.at_exit(remove)
    os.write(fd, str(os.getpid()).encode())
    os.close(fd)


def _open_debug_port(port: int, process: Process) -> None:
    """Listen, as init_dbgport in src/dbgport.c does, to anybody; what a debugger then says is not simulated."""
    listener = socket.socket()
    try:
        listener.bind(("", port & 0xFFFF))
        listener.listen(1)
    except OSError as error:
        process.perror("bind", error.errno or 0)
        raise Ended(1) from error
    listener.detach()  # it stays open


def _load(line: CommandLine, process: Process) -> list[str]:
    """Load what the guest starts with, as its first virtual CPU does: all devices are there by now."""
    firmware = line.firmware
    assert firmware is not None
    try:
        kexec.check(firmware.kernel, firmware.initrd, firmware.cmdline, line.memory)
    except kexec.Refused as refused:
        process.say(str(refused))
        process.abort()
    arguments = ["-kernel", firmware.kernel, "-append", firmware.cmdline or "auto"]
    if firmware.initrd:
        arguments += ["-initrd", firmware.initrd]
    return arguments


def _arguments(line: CommandLine) -> list[str]:
    arguments = ["-smp", str(line.cpus), "-m", f"{line.memory}B", "-rtc", f"base={'utc' if line.utc else 'localtime'}"]
    uuid = parse_uuid(line.uuid or "")
    if line.uuid and uuid:
        arguments += ["-uuid", uuid_text(uuid)]
    return arguments
