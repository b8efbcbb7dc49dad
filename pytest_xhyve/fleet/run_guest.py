"""The guest that all processes of a run share: the first one that needs it makes it, the others connect to it.

Each process of pytest-xdist has a fleet and a guardian of its own. The guest belongs to the guardian of the process
that made it, which keeps the guest until the run's process ends: the controller, which starts the workers. So the guest
outlives each worker, and nothing outlives the run.

What has become of it is written into a file that all of them read, one after the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pytest_xhyve.fleet.request import Request
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.lans import NO_LANS
from pytest_xhyve.guest.run_guest import RunGuest, connect
from pytest_xhyve.host.guest_folder import CONSOLE
from pytest_xhyve.host.locks import locked
from pytest_xhyve.host.others_process import OthersProcess
from pytest_xhyve.hypervisors.base import Endpoint, Identity
from pytest_xhyve.model.errors import ConfigurationError, XhyveError

if TYPE_CHECKING:
    from pytest_xhyve.fleet.fleet import Fleet
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.model.spec import GuestSpec

_SUFFIXES = (".lock", ".json")


@dataclass(frozen=True, slots=True)
class Run:
    """A run of pytest, as one of its processes sees it.

    Attributes:
        id: an id that all processes of the run share, and no other run has.
        folder: a folder that all of them share.
        process: the id of the process that ends last; None if this is the only process.
        worker: the name of this process, for messages.
    """

    id: str
    folder: Path
    process: int | None
    worker: str


@dataclass(frozen=True, slots=True)
class _Made:
    """A guest that was made and set up.

    Attributes:
        name: its name.
        uuid: its machine's UUID.
        mac: the Ethernet address of its first network card, if known.
        folder: its folder.
        pid: its hypervisor's process id.
        host: the address of its SSH server.
        port: the port of its SSH server.
        phases: the seconds of each step of its start.
    """

    name: str
    uuid: str
    mac: str | None
    folder: str
    pid: int
    host: str
    port: int
    phases: dict[str, float]


@contextmanager
def run_guest(fleet: Fleet, request: Request, run: Run, set_up: Callable[[Guest], None]) -> Iterator[RunGuest]:
    """The guest of *run* that *request* describes; the first process that asks for it makes it and sets it up.

    Args:
        fleet: this process's.
        request: what the guest is made of; guests of one run differ if it differs.
        run: the run.
        set_up: prepares the guest; called once in the whole run.

    Raises:
        ConfigurationError: such a guest cannot be reset.
        XhyveError: the guest could not be made or set up, now or by another process before.
    """
    if request.spec.reset or request.spec.power_cuts:
        raise ConfigurationError(
            "xhyve_run_guest takes no reset=True and no power_cuts=True: tests of other workers use it meanwhile\n"
            "  take xhyve_session_guest for that, which each worker has for itself"
        )
    with ExitStack() as own:
        made = _get_or_make(fleet, request, run, set_up, own)
        with _connected(fleet, request.spec, made) as guest:
            yield guest


def _get_or_make(fleet: Fleet, request: Request, run: Run, set_up: Callable[[Guest], None], own: ExitStack) -> _Made:
    """Make the guest, or read what another process has written about it; *own* ends a guest that is not shared."""
    run.folder.mkdir(mode=0o700, exist_ok=True)
    lock, file = (run.folder / f"{_key(request.spec)}{suffix}" for suffix in _SUFFIXES)
    with locked(lock, "makes the guest of the run", report=fleet._events.progress):
        if file.exists():
            return _read(file, run)
        _write(file, {"by": run.worker, "process": os.getpid()})
        try:
            with ExitStack() as life:
                made = _make(life, fleet, request, run, set_up)
                own.push(life.pop_all())
        except BaseException as error:
            _write(file, {"by": run.worker, "error": str(error) or type(error).__name__})
            raise
        _write(file, {"by": run.worker, "made": asdict(made)})
        return made


def _make(life: ExitStack, fleet: Fleet, request: Request, run: Run, set_up: Callable[[Guest], None]) -> _Made:
    guest = life.enter_context(fleet.start(request))
    set_up(guest)
    process, pid = guest._instance.process, guest._instance.process.pid
    assert pid is not None
    made = _Made(
        guest.name, guest.uuid, guest.mac, str(process.folder), pid, guest.host, guest.port, dict(guest.phases)
    )
    if run.process is not None:
        try:
            process.keep({"run": run.id, "ssh": guest.ssh_command()}, run_process=run.process)
        except ProcessLookupError as error:
            raise XhyveError("the controller of this worker has ended") from error
        # It runs on; this process uses it as all others do.
        guest.remove()
    return made


def _read(file: Path, run: Run) -> _Made:
    """What a process has written about the guest.

    Raises:
        XhyveError: it has not made the guest.
    """
    content = json.loads(file.read_text())
    by = "this process" if content["by"] == run.worker else f"worker {content['by']}"
    if "made" in content:
        return _Made(**content["made"])
    if "error" in content:
        raise XhyveError(f"{by} could not make the guest of the run, and no other one tries again:\n{content['error']}")
    raise XhyveError(
        f"{by} (process {content['process']}) died while it made the guest of the run, and no other one tries again\n"
        "  see what its set-up does: the hook pytest_xhyve_run_guest, and pytest_xhyve_guest_ready"
    )


def _write(file: Path, content: dict[str, Any]) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(content))
    new.replace(file)


@contextmanager
def _connected(fleet: Fleet, spec: GuestSpec, made: _Made) -> Iterator[RunGuest]:
    _, run_folder = fleet._run.get()
    folder = run_folder / f".{made.name}-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    (folder / CONSOLE).symlink_to(Path(made.folder) / CONSOLE)
    resolved = fleet.resolver.resolve(spec)
    machine = fleet.resolver.machine(resolved, Identity(UUID(made.uuid), made.mac), made.name, NO_LANS)
    process = OthersProcess(folder, Path(made.folder), made.pid)
    timeouts = fleet.resolver.timeouts(resolved.image)
    instance = Instance(resolved.image, resolved.hypervisor, process, timeouts, fleet._events, spec.disk_sizes)
    guest = connect(instance, machine, Endpoint(made.host, made.port), made.mac)
    guest._phases = made.phases
    try:
        yield guest
    finally:
        guest.disconnect()
        # The folder of this process may stay, as that of the guest's owner.
        shutil.rmtree(folder, ignore_errors=True)


def _key(spec: GuestSpec) -> str:
    """A name for what *spec* describes, the same in all processes of a run."""
    return hashlib.sha256(repr(spec).encode()).hexdigest()[:16]
