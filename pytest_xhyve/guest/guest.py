"""The guest: what a test holds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pytest_xhyve.guest import restarts, ssh_config, waits
from pytest_xhyve.guest.console import Console
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.power import SSH, Power
from pytest_xhyve.guest.start import Start
from pytest_xhyve.hypervisors.base import Endpoint, HypervisorInfo
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Machine

if TYPE_CHECKING:
    import paramiko

    from pytest_xhyve.guest.commands import Connection
    from pytest_xhyve.model.completed import Completed
    from pytest_xhyve.model.kept import Kept


KeepPolicy = Callable[["Guest", BaseException | None], str | None]
"""Decides for whom a guest is left running when the block around it ends, with the error that ended it, if one did."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """What the owner of a guest, the fleet, gives it.

    Attributes:
        resources: all that the guest stands on; closed when the guest is removed.
        keep: lets the guest stay after the run; gets what it is kept for.
        reason_to_keep: gets the guest and the error that ended the block around it, if one did; returns what the guest
            is to be kept for, or None.
    """

    resources: ExitStack
    keep: Callable[[str], Kept]
    reason_to_keep: KeepPolicy


class Guest:
    """A disposable Linux machine.

    The fixtures make guests and remove them. As a context manager, a guest is removed at the end of the block.
    """

    def __init__(
        self,
        instance: Instance,
        machine: Machine,
        *,
        boot: Start[Any] | None = None,
        phases: Mapping[str, float] | None = None,
    ) -> None:
        self._instance = instance
        self._machine = machine
        self._boot = boot or Start.boot(instance, machine)
        self._phases = dict(phases or {})
        # The time in power is inside that of the owner's stack, which `remove` closes.
        self._own_power = Power(machine.name, instance)
        self._before_use: Callable[[], None] | None = None
        self._owner: Ownership | None = None
        self._is_removed = False
        self._first_command: float | None = None
        self._prewarmed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end(error)
        except XhyveError as trouble:
            if error is None:
                raise
            # What went wrong first is what has to be seen.
            error.add_note(f"and then guest {self.name} could not be removed: {trouble}")

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
        return self._instance.image

    @property
    def machine(self) -> Machine:
        """What the hypervisor runs."""
        return self._machine

    @property
    def hypervisor(self) -> HypervisorInfo:
        """What runs it: name, version and acceleration."""
        return self._instance.hypervisor.info

    @property
    def console(self) -> Console:
        """The guest's serial port.

        Raises:
            XhyveError: the guest was never started.
        """
        return self._own_power.console

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

    @property
    def prewarmed(self) -> bool:
        """Whether the guest was started before its test asked for it (``--xhyve-prewarm``)."""
        return self._prewarmed

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
        self._instance.events.command_finished(self, completed, checked=check)
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
        self._instance.events.file_fetched(self, got)

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
            BootFailed: the guest did not boot.
            XhyveError: the guest runs already.
        """
        if self._power.is_on:
            raise XhyveError(f"guest {self.name} runs already")
        for phase in ("template", "restore", "banner"):
            self._phases.pop(phase, None)
        self._phases |= self._power.switch_on(self._boot, self._instance.timeouts.boot)

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
        """Remove the guest: its machine, its disk and its slot. The second call does nothing."""
        if not self._is_removed:
            self._instance.events.removing(self)
        self._is_removed = True
        if self._owner is None:
            self._switch_off()
        else:
            self._owner.resources.close()

    def keep(self, by: str) -> Kept:
        """Leave the guest running when it is removed here, until `pytest-xhyve reap` or its own power-off.

        Args:
            by: what the guest is kept for, for people.

        Raises:
            XhyveError: the guest is off, or its kernel has panicked.
        """
        if self._owner is None:
            raise XhyveError(f"guest {self.name} has no owner that could keep it")
        self._power.check_alive()
        return self._owner.keep(by)

    # What follows is for the rooms of this package that own guests.

    @property
    def _power(self) -> Power:
        """The guest's switch and connection, by way of which all above uses the guest."""
        if self._before_use is not None:
            # Such as the reset for a test that did not name the guest's fixture.
            before_use, self._before_use = self._before_use, None
            before_use()
        return self._own_power

    def _switch_off(self) -> None:
        """As `kill`, for an owner, to whom the state of the guest does not matter any more."""
        self._own_power.switch_off()

    def _bring_up(self, start: Start[Any] | None = None) -> None:
        """Start the guest for the first time; one that does not start is powered off.

        Args:
            start: restores the guest; if it is None, the guest boots.

        Raises:
            XhyveError: the guest does not boot, or cannot be restored.
        """
        timeouts = self._instance.timeouts
        if start is not None:
            self._phases.pop("boot", None)
        try:
            self._phases |= self._own_power.switch_on(
                start or self._boot, timeouts.boot if start is None else timeouts.restore
            )
        except XhyveError as error:
            if start is None:
                self._instance.events.boot_failed(self, error)
            self._switch_off()
            raise
        except BaseException:
            self._switch_off()
            raise

    def _go_on_as(self, machine: Machine, start: Start[Any], boot: Start[Any]) -> None:
        """Power off, and go on with another *machine* of the same identity.

        Args:
            machine: what runs from now on.
            start: restores it now.
            boot: how it boots after a power-off.
        """
        self._switch_off()
        self._machine, self._boot = machine, boot
        self._bring_up(start)

    def _end(self, error: BaseException | None = None) -> None:
        """Remove the guest, or keep it if its owner has a reason to; *error* is what ended the block around it."""
        if self._owner is not None and not self._is_removed:
            by = self._owner.reason_to_keep(self, error)
            try:
                if by is not None:
                    self.keep(by)
            except XhyveError as trouble:
                self._instance.events.keep_failed(self, trouble)
        self.remove()

    def _connection(self) -> Connection:
        from pytest_xhyve.guest.commands import Connection  # noqa: PLC0415

        power = self._power
        return Connection(power.transport(), power.check_alive, power.explain_loss, self._instance.timeouts.step)

    def _ssh_endpoint(self) -> Endpoint:
        endpoint = self._power.machine.find_endpoint(SSH)
        if endpoint is None:
            raise XhyveError(f"guest {self.name} has no address yet")
        return endpoint
