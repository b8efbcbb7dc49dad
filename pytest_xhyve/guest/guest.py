"""The guest: what a test holds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from pytest_xhyve.guest import restarts, ssh_config, waits
from pytest_xhyve.guest.console import Console
from pytest_xhyve.guest.power import SSH, Power, Start, Timeouts
from pytest_xhyve.hypervisors.base import Endpoint, HypervisorInfo
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Machine

if TYPE_CHECKING:
    import paramiko

    from pytest_xhyve.guest.commands import Connection
    from pytest_xhyve.model.completed import Completed
    from pytest_xhyve.model.kept import Kept


class Witness(Protocol):
    """Who sees what becomes of a guest: in pytest, what reports it."""

    def ran(self, completed: Completed, *, checked: bool) -> None:
        """A command has run; if *checked*, its code was seen to be 0."""

    def fetched(self, guest: Guest, local: Path) -> None:
        """*guest* has copied something to *local*."""

    def leaving(self, guest: Guest) -> None:
        """*guest* is about to be taken away."""

    def reason_to_keep(self, guest: Guest, error: BaseException | None) -> str | None:
        """For whom *guest* is to be left running, whose block ends, with *error* when there is one; None for nobody."""

    def not_kept(self, guest: Guest, error: XhyveError) -> None:
        """*guest* had to be left running, and could not be."""


class Guest:
    """A disposable Linux machine of one's own.

    Guests come from the fixtures, which also take them away; as a context manager, a guest is taken away at the end
    of the block.
    """

    def __init__(
        self,
        *,
        image: Image,
        machine: Machine,
        hypervisor: HypervisorInfo,
        boot: Start,
        timeouts: Timeouts,
        phases: Mapping[str, float],
        entered: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._image = image
        self._hypervisor = hypervisor
        self._boot = boot
        self._machine = machine
        self._timeouts = timeouts
        self._phases = dict(phases)
        # The time in power is inside that of the owner's stack, which `remove` closes.
        self._power = Power(machine.name, image, timeouts, entered)
        self._owner = ExitStack()
        self._keep: Callable[[str], Kept] | None = None
        self._is_there = True
        self.witness: Witness | None = None
        """Is told what becomes of it."""
        self._first_command: float | None = None
        self.prewarmed = False
        """Whether it was made before the test asked for it (``--xhyve-prewarm``)."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.end(error)
        except XhyveError as trouble:
            if error is None:
                raise
            # What went wrong first is what has to be seen.
            error.add_note(f"and then guest {self.name} could not be taken away: {trouble}")

    def __repr__(self) -> str:
        return f"<Guest {self.name} ({self.image.name})>"

    @property
    def name(self) -> str:
        """The guest's name; its host name too, where the image lets it be set."""
        return self._machine.name

    @property
    def uuid(self) -> str:
        """The machine's UUID, fixed by the slot."""
        return str(self._machine.uuid)

    @property
    def mac(self) -> str:
        """The Ethernet address of the first network card.

        Raises:
            XhyveError: the guest is off, and the hypervisor has not told it yet.
        """
        mac = self._machine.nics[0].mac or self._power.machine.mac
        if mac is None:
            raise XhyveError(f"the Ethernet address of guest {self.name} is not known yet")
        return mac

    @property
    def image(self) -> Image:
        """What the guest was cloned from."""
        return self._image

    @property
    def machine(self) -> Machine:
        """What the hypervisor runs."""
        return self._machine

    @property
    def hypervisor(self) -> HypervisorInfo:
        """What runs it: name, version and acceleration."""
        return self._hypervisor

    @property
    def console(self) -> Console:
        """The guest's serial port.

        Raises:
            XhyveError: the guest was never started.
        """
        return self._power.console

    @property
    def host(self) -> str:
        """Where SSH answers, as seen from the test: an address."""
        return self._ssh_endpoint().host

    @property
    def port(self) -> int:
        """Where SSH answers, as seen from the test: a TCP port."""
        return self._ssh_endpoint().port

    @property
    def phases(self) -> Mapping[str, float]:
        """How long each step from request to login took, in seconds, in their order.

        ``image`` (found and checked, built at worst), ``template`` (found and checked, made at worst; only for a
        guest that was restored), ``clone``, ``start`` (the hypervisor), ``boot`` (to the SSH banner) or ``restore``
        and ``banner``, and ``login``.
        """
        return dict(self._phases)

    @property
    def first_command(self) -> float | None:
        """How long the first `run` took, in seconds, from the call to the command's output; None before it."""
        return self._first_command

    def is_healthy(self) -> bool:
        """Whether it runs, by all that can be seen from here, and its connection stands."""
        return self._power.is_healthy()

    @property
    def ssh(self) -> paramiko.SSHClient:
        """A connected client, the same until the guest restarts or the connection breaks.

        Raises:
            BootFailed: the guest does not answer any more.
            ConnectionFailed: it answers, and refuses.
        """
        return self._power.client()

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        timeout: float | None = None,
        input: str | bytes | None = None,  # noqa: A002
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> Completed:
        """Run *command* in the guest and wait for its end.

        Args:
            command: a line for the guest's shell, or the words of one command, which no shell changes.
            check: raise `CommandFailed` when the code is not 0.
            timeout: seconds; the command is killed after them.
            input: what it reads on its standard input.
            env: variables to set for it.
            user: who runs it; whoever the image logs in as, otherwise.

        Returns:
            the code and both streams; bytes that are no UTF-8 are kept as `os.fsdecode` keeps them.

        Raises:
            CommandFailed: the code was not 0.
            CommandTimeout: it did not end in time; what came until then is shown.
            BootFailed: the guest died meanwhile.
        """
        __tracebackhide__ = True
        begin = time.monotonic()
        from pytest_xhyve.guest import commands as remote  # noqa: PLC0415

        line = remote.shell_line(command, env=env, user=user, login_user=self.image.user, timeout=timeout)
        try:
            completed = remote.run(
                self._connection(),
                line,
                shown=command if isinstance(command, str) else " ".join(command),
                check=check,
                timeout=timeout,
                input=input.encode(errors="surrogateescape") if isinstance(input, str) else input,
            )
        finally:
            if self._first_command is None:
                self._first_command = time.monotonic() - begin
        if self.witness is not None:
            self.witness.ran(completed, checked=check)
        return completed

    def put(self, local: str | os.PathLike[str], remote: str) -> None:
        """Copy a file or folder into the guest, as ``cp -r``: into *remote* when that is a folder.

        Folders above *remote* are made. Owner is whoever the image logs in as.

        Raises:
            FileNotFoundError: there is no *local*.
            XhyveError: the guest refused.
        """
        from pytest_xhyve.guest import transfer  # noqa: PLC0415

        transfer.put(self._connection(), transfer.as_path(local), remote)

    def get(self, remote: str, local: str | os.PathLike[str]) -> None:
        """Copy a file or folder out of the guest, as ``cp -r``: into *local* when that is a folder.

        Raises:
            XhyveError: the guest has no such file, or it would be written outside *local*.
        """
        from pytest_xhyve.guest import transfer  # noqa: PLC0415

        got = transfer.get(self._connection(), remote, transfer.as_path(local))
        if self.witness is not None:
            self.witness.fetched(self, got)

    def wait_for(self, command: str | Sequence[str], timeout: float = 60.0) -> Completed:
        """Run *command* again and again until its code is 0.

        Args:
            command: as `run` takes it.
            timeout: seconds.

        Raises:
            WaitTimeout: it never was; what it said last is shown.
        """
        __tracebackhide__ = True
        return waits.wait_for_success(lambda left: self.run(command, check=False, timeout=left), timeout)

    def wait_for_port(self, port: int, timeout: float = 60.0) -> None:
        """Wait until something in the guest listens on the TCP *port* of its loopback interface.

        Raises:
            WaitTimeout: nothing did within *timeout* seconds.
        """
        __tracebackhide__ = True
        waits.wait_for_port(self.run, self._power, port, timeout)

    def wait_for_unit(self, name: str, timeout: float = 60.0) -> None:
        """Wait until the systemd unit *name* is active.

        Raises:
            XhyveError: it has failed, so that waiting is useless; its status is shown.
            WaitTimeout: it was not active within *timeout* seconds.
        """
        __tracebackhide__ = True
        waits.wait_for_unit(self.run, name, timeout)

    def forward(self, port: int) -> tuple[str, int]:
        """Make the guest's TCP *port* reachable from here, until the guest is switched off or taken away.

        The connections come from outside of the guest: its firewall sees them.

        Returns:
            where it answers: an address and a port on the loopback interface of this host, or the guest's own.
        """
        endpoint = self._power.machine.forward(port)
        return endpoint.host, endpoint.port

    def reboot(self) -> None:
        """Restart the guest from inside, and wait until it answers again.

        That it was a restart is seen by the kernel's boot id (random(4)).

        Raises:
            BootFailed: it did not come back.
        """
        restarts.reboot(self._power, self.run, self.start)

    def shutdown(self) -> None:
        """Shut the guest down from inside and wait until it is off; its disk stays for `start`.

        Where SSH does not answer any more, the power button is pressed.

        Raises:
            BootTimeout: it did not go down.
        """
        restarts.shut_down(self._power)

    def kill(self) -> None:
        """Cut the power. What the guest had not synced is lost; its disk stays for `start`."""
        self._power.switch_off()

    def start(self) -> None:
        """Boot the guest again, with the same disk and identity, after `shutdown` or `kill`.

        Raises:
            BootFailed: it did not come up.
            XhyveError: it runs already.
        """
        if self._power.is_on:
            raise XhyveError(f"guest {self.name} runs already")
        for phase in ("template", "restore", "banner"):
            self._phases.pop(phase, None)
        self._phases |= self._power.switch_on(self._boot, self._timeouts.boot)

    def restore(self, restore: Start) -> None:
        """As `start`, restored in the place of being booted."""
        self._phases.pop("boot", None)
        self._phases |= self._power.switch_on(restore, self._timeouts.restore)

    def change_machine(self, machine: Machine, boot: Start) -> None:
        """Cut the power and go on with another *machine* of the same identity, which `start` boots by *boot*."""
        self._power.switch_off()
        self._machine = machine
        self._boot = boot

    @property
    def power(self) -> Power:
        """Its switch, for what of this plugin starts and saves guests."""
        return self._power

    def pause(self) -> None:
        """Stop the guest's CPUs; `resume` lets them run on."""
        self._power.machine.pause()

    def resume(self) -> None:
        """Let a paused guest run on."""
        self._power.machine.resume()

    def ssh_config(self) -> str:
        """A Host block for OpenSSH's configuration (ssh_config(5)), under the guest's name.

        Ansible, testinfra and fabric take it too, as does ``ssh -F``. Host keys are checked by it.
        """
        return ssh_config.host_block(self.name, self._ssh_endpoint(), self.image, self._folder)

    def ssh_command(self) -> tuple[str, ...]:
        """The command line by which OpenSSH logs in to the guest, as long as the guest is there.

        Raises:
            XhyveError: it is off, or has no address yet.
        """
        return ssh_config.login_command(self.name, self.ssh_config(), self._folder)

    @property
    def _folder(self) -> Path:
        return self.console.path.parent

    def remove(self) -> None:
        """Take the guest away: its machine, its disk and its slot. Nothing happens the second time."""
        if self._is_there and self.witness is not None:
            self.witness.leaving(self)
        self._is_there = False
        self._owner.close()

    def keep(self, by: str) -> Kept:
        """Let the guest run on when it is removed here, until `pytest-xhyve reap` or its own shutdown.

        Args:
            by: what it is kept for, for people.

        Raises:
            XhyveError: it is off, or its kernel has panicked.
        """
        if self._keep is None:
            raise XhyveError(f"guest {self.name} has no owner that could let go of it")
        self._power.check_alive()
        return self._keep(by)

    def end(self, error: BaseException | None = None) -> None:
        """Take the guest away, or keep it where there is a reason to; *error* is what ended the block that had it."""
        if self._is_there and self.witness is not None:
            by = self.witness.reason_to_keep(self, error)
            try:
                if by is not None:
                    self.keep(by)
            except XhyveError as trouble:
                self.witness.not_kept(self, trouble)
        self.remove()

    def owned_by(self, owner: ExitStack, keep: Callable[[str], Kept]) -> None:
        """Close *owner*, which holds all that the guest stands on, when the guest is removed.

        Args:
            owner: see above.
            keep: lets the guest outlive this process.
        """
        self._owner.push(owner)
        self._keep = keep

    def _connection(self) -> Connection:
        from pytest_xhyve.guest.commands import Connection  # noqa: PLC0415

        power = self._power
        return Connection(power.transport(), power.check_alive, power.explain_loss, self._timeouts.step)

    def _ssh_endpoint(self) -> Endpoint:
        endpoint = self._power.machine.find_endpoint(SSH)
        if endpoint is None:
            raise XhyveError(f"guest {self.name} has no address yet")
        return endpoint
