"""A Mac, as far as xhyve and who starts it can see: vmnet's network, bootpd with its lease file, and xhyve itself.

    if (reason := namespace.can_enter()) is not None:
        pytest.skip(reason)
    namespace.enter()
    with Mac(folder) as mac:
        xhyve = mac.install(Path("/usr/local/bin/xhyve"), "head")
        mac.behave(lease_style="duid")  # and of the rest, what is usual
        mac.journal()  # what vmnet was asked for

The file *xhyve* is then started with xhyve's own command line. Its guests get addresses from 192.168.64.2 on, by DHCP
on the bridge ``bridge100`` (where we are 192.168.64.1), which a while later stand in /var/db/dhcpd_leases.

A stand-in and its QEMU are one as far as death and SIGSTOP go, and nobody else has to end the QEMU. What xhyve would do
and a stand-in cannot (UEFI, taps, 9p, PCI buses but the first) ends it with code 70.
"""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pytest_xhyve.host.processes import with_parent_death_signal
from standin.bootpd import LEASE_SECONDS, Writer
from standin.commandline import Build
from standin.faults import Faults
from standin.interpreter import copy_setuid, shebang
from standin.vmnet import BRIDGE, JOURNAL

ADDRESS = "192.168.64.1"
LEASES = Path("/var/db/dhcpd_leases")

_START_SECONDS = 10.0
_POLL_SECONDS = 0.005
_DHCP_SERVER_PORT = 67
# Fixed, as the bridge would else take the lowest of its members', and neighbours would have to ask for it anew.
_BRIDGE_MAC = "3e:22:fb:0:0:64"

_XHYVE = """{shebang}
import sys
sys.path.insert(0, {tests!r})
from standin.machine import main
main(sys.argv, {build!r}, {folder!r})
"""

_VFKIT = """{shebang}
import sys
sys.path.insert(0, {tests!r})
from standin.vfkit.machine import main
main(sys.argv)
"""


@dataclass(frozen=True, slots=True)
class VmnetLock:
    """That vmnet was asked for an interface.

    Attributes:
        pid: who asked.
        uuid: the interface's id, in lower case.
        begin, end: `time.monotonic`; *end* is None if the process ended in between, or still waits.
        overlapped: another set-up was in progress.
        refused: there was no interface in the end.
    """

    pid: int
    uuid: str
    begin: float
    end: float | None
    overlapped: bool
    refused: bool


class Mac:
    """A Mac, from ``with`` on; only inside of namespaces (see `standin.namespace`), and one at a time.

    Args:
        folder: for all that it has to remember; made if there is none. A stand-in that is to be started by another
            user than root must be able to search it.
        leases: where the lease file is.
    """

    def __init__(self, folder: Path, leases: Path = LEASES) -> None:
        self.folder = folder
        self.leases = leases
        self._faults = Faults()
        self._owned = ExitStack()
        self._dnsmasq: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as owned:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.leases.parent.mkdir(parents=True, exist_ok=True)
            self._faults.save(self.folder)
            owned.callback(_ip, f"link del {BRIDGE}")
            _ip(
                f"link add {BRIDGE} address {_BRIDGE_MAC} type bridge forward_delay 0 mcast_snooping 0",
                f"address add {ADDRESS}/24 dev {BRIDGE}",
                f"link set {BRIDGE} up",
            )
            owned.enter_context(Writer(self.leases, self._script, lambda: self._faults))
            owned.callback(self._stop_dhcp)
            self._start_dhcp()
            self._owned = owned.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._owned.close()

    def install(self, path: Path, build: Build = "head", *, setuid: bool = False) -> Path:
        """Write an xhyve of *build* to *path*, and return that.

        Args:
            path: the program; replaced if it is there.
            build: which xhyve it is.
            setuid: make it run as root whoever starts it, as ``chmod u+s`` does with a real one. The file system must
                allow that, and a Python is copied beside it.
        """
        interpreter = copy_setuid(path.with_name(f".{path.name}.python")) if setuid else None
        tests = str(Path(__file__).resolve().parent.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        script = _XHYVE.format(
            shebang=shebang(interpreter), tests=tests, build=build, folder=str(self.folder.resolve())
        )
        path.write_text(script)
        path.chmod(0o755)
        return path

    def install_vfkit(self, path: Path) -> Path:
        """Write a vfkit to *path*, and return that."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_VFKIT.format(shebang=shebang(), tests=str(Path(__file__).resolve().parent.parent)))
        path.chmod(0o755)
        return path

    def behave(self, **faults: Any) -> None:
        """Go wrong in these ways, and in no other, from now on: each xhyve that is started later, and DHCP at once.

        Args:
            **faults: fields of `standin.faults.Faults`. Without any, all is well.
        """
        self._faults = Faults(**{"refused_uuids": frozenset(faults.pop("refused_uuids", ())), **faults})
        self._faults.save(self.folder)
        if self._faults.lease_style == "silent":
            self._stop_dhcp()
        else:
            self._start_dhcp()

    def journal(self) -> list[VmnetLock]:
        """What vmnet was asked for, from the beginning."""
        begun: dict[str, VmnetLock] = {}
        with suppress(FileNotFoundError):
            for line in (self.folder / JOURNAL).read_text().splitlines():
                told = json.loads(line)
                key = told.pop("key")
                begun[key] = VmnetLock(**told)  # the later line knows the end
        return list(begun.values())

    @property
    def _script(self) -> Path:
        return self.folder / "dhcp-script"

    def _start_dhcp(self) -> None:
        if self._dnsmasq is not None:
            return
        log = self.folder / "dnsmasq.log"
        # fmt: off
        argv = [
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--group=root",
            f"--pid-file={self.folder / 'dnsmasq.pid'}", f"--log-facility={log}", "--log-dhcp",
            "--port=0", "--no-ping", "--no-resolv", "--no-hosts",
            "--bind-interfaces", f"--interface={BRIDGE}", "--except-interface=lo",
            f"--dhcp-range=192.168.64.2,192.168.64.254,255.255.255.0,{LEASE_SECONDS}", "--dhcp-sequential-ip",
            "--dhcp-authoritative", f"--dhcp-option=option:router,{ADDRESS}",
            f"--dhcp-leasefile={self.folder / 'dnsmasq.leases'}",
            f"--dhcp-script={self._script}", "--script-on-renewal",
        ]
        # fmt: on
        self._dnsmasq = subprocess.Popen(with_parent_death_signal(argv), stdin=subprocess.DEVNULL)
        end = time.monotonic() + _START_SECONDS
        while not _listens(_DHCP_SERVER_PORT):
            if self._dnsmasq.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"dnsmasq does not start; {log} has:\n{log.read_text()}")
            time.sleep(_POLL_SECONDS)

    def _stop_dhcp(self) -> None:
        if self._dnsmasq is not None:
            self._dnsmasq.kill()
            self._dnsmasq.wait()
            self._dnsmasq = None


def _ip(*commands: str) -> None:
    subprocess.run(["ip", "-batch", "-"], check=True, input="\n".join(commands), text=True)


def _listens(port: int) -> bool:
    """Whether somebody in this network namespace has bound the UDP port."""
    # Number, local address and port, …; all in hexadecimal (proc(5)).
    rows = (line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:])
    return any(int(row[1].rpartition(":")[2], 16) == port for row in rows)
