"""The plugin's SSH connection to a guest: opened when the guest answers, and again when it is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_xhyve.guest.boot_errors import timeout_error
from pytest_xhyve.guest.boot_phases import LOGIN, BootPhases
from pytest_xhyve.guest.console import Console
from pytest_xhyve.guest.health import Health
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.kernel_watch import ANSWER_SECONDS
from pytest_xhyve.hypervisors.base import VirtualMachine
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import ConnectionFailed
from pytest_xhyve.model.machine import CLOSED_PORT, SSH_PORT

if TYPE_CHECKING:
    import paramiko

    from pytest_xhyve.guest.connection import Connection

_REFUSED_SECONDS = 1.0
# A guest that goes down cuts its connections first; BusyBox's init gives programs two seconds more.
_END_SECONDS = 3.0


def _do_nothing(may_have_booted: bool) -> None:
    """What a guest needs after a login that has nothing to be set."""


class Login:
    """Logs in to a guest, and keeps the connection.

    Args:
        name: the guest's name, for messages.
        instance: has the image, which states how to log in, and the limits.
        health: of the guest.
        find_machine: returns the running machine; raises `XhyveError` if the guest is off.
        find_console: returns the guest's console.
    """

    def __init__(
        self,
        name: str,
        instance: Instance,
        health: Health,
        find_machine: Callable[[], VirtualMachine],
        find_console: Callable[[], Console],
    ) -> None:
        self._name = name
        self._image = instance.image
        self.timeouts = instance.timeouts
        self._health = health
        self._find_machine = find_machine
        self._find_console = find_console
        self._client: paramiko.SSHClient | None = None
        # Held while a thread connects, so that the other ones get its connection.
        self._connecting = threading.RLock()
        self._may_refuse = True
        self.after: Callable[[bool], None] = _do_nothing
        """Called after each login, with whether the guest may have booted; it may use the connection."""

    @property
    def is_open(self) -> bool:
        """Whether the connection is open."""
        transport = None if self._client is None else self._client.get_transport()
        return transport is not None and transport.is_active()

    def client(self, timeout: float | None = None) -> paramiko.SSHClient:
        """The connection; if it is lost, a new one.

        Args:
            timeout: seconds until a new connection is open; None for the limit of a boot.

        Raises:
            BootFailed: the guest does not answer any more.
            ConnectionFailed: the guest answers, but the login failed.
        """
        with self._connecting:
            if not self.is_open:
                self.disconnect()
                self.connect(monotonic() + (self._patience() if timeout is None else timeout))
            assert self._client is not None
            return self._client

    def _patience(self) -> float:
        """How long a connection that is lost may take to be made again: that of a boot only if the guest may boot."""
        return self.timeouts.boot if self._health.may_boot else self.timeouts.step

    def transport(self, timeout: float | None = None) -> paramiko.Transport:
        """The transport of the connection that `client` returns."""
        transport = self.client(timeout).get_transport()
        assert transport is not None
        return transport

    def connect(
        self,
        end: float,
        *,
        limit: float | None = None,
        progress: BootPhases | None = None,
        may_have_booted: bool = True,
    ) -> tuple[float, float]:
        """Wait until SSH answers, and log in.

        Args:
            end: when to give up, as `monotonic` counts.
            limit: the limit that the error states, in seconds; None for the time from now to *end*.
            progress: gets the phase of the login; None if the machine has not just started.
            may_have_booted: passed on to `after`.

        Returns:
            the seconds until the banner, and the seconds of the login.

        Raises:
            BootFailed: the guest does not answer.
            ConnectionFailed: the guest answers, but the login failed.
        """
        begin = monotonic()
        vm = self._find_machine()
        # The import of paramiko takes as long as a command; here, the guest boots meanwhile.
        from pytest_xhyve.guest import ssh  # noqa: PLC0415
        from pytest_xhyve.guest.network_probe import NetworkProbe  # noqa: PLC0415

        grace = ssh.Grace(self.timeouts.refusal)
        has_just_booted = progress is not None and may_have_booted
        network = NetworkProbe(lambda: vm.find_endpoint(CLOSED_PORT), is_up=not has_just_booted)
        while True:
            found = ssh.wait_for_banner(
                lambda: vm.find_endpoint(SSH_PORT),
                lambda: vm.count_accepted(SSH_PORT),
                self._health.check_booting,
                network,
                end - monotonic(),
            )
            if found is None:
                seconds = end - begin if limit is None else limit
                raise timeout_error(vm, self._find_console(), self._image, self.timeouts, seconds)
            banner = monotonic()
            if progress is not None:
                progress.enter(LOGIN)
            try:
                self._client, self._health.pulse = ssh.log_in(
                    *found,
                    user=self._image.user,
                    key=self._image.key,
                    password=self._image.password,
                    host_keys=self._image.host_keys,
                    timeout=self.timeouts.step,
                )
            except ssh.Broken as error:
                if monotonic() > end:
                    failed = ConnectionFailed(str(error))
                    failed.broke = True
                    raise failed from error
            except ssh.Refused as error:
                if not (self._may_refuse or self._health.ending) or grace.is_over() or monotonic() > end:
                    raise ConnectionFailed(str(error)) from error
                time.sleep(_REFUSED_SECONDS)
            else:
                self._may_refuse = False
                self._health.logged_in()
                took = banner - begin, monotonic() - banner
                self.after(may_have_booted)
                return took

    def expect_boot(self) -> None:
        """Let the next `connect` take a refused login for that of a guest that is booting."""
        self._may_refuse = True

    def disconnect(self) -> None:
        """Close the connection, if there is one."""
        if self._client is not None:
            self._client.close()
            self._client = self._health.pulse = None

    def connection(self, timeout: float | None = None) -> Connection:
        """The connection that `client` makes, with the checks for each wait on it."""
        from pytest_xhyve.guest.connection import Connection  # noqa: PLC0415

        def connect() -> tuple[paramiko.Transport, set[paramiko.Channel]]:
            with self._connecting:
                transport = self.transport(timeout)
                assert self._health.pulse is not None
                return transport, self._health.pulse.sessions

        transport, sessions = connect()
        return Connection(
            self._name,
            transport,
            self._check_answers,
            self.explain_loss,
            self._health.silence,
            self.timeouts.step,
            sessions,
            connect,
        )

    def _check_answers(self, since: float, limit: float) -> None:
        """Like `Health.check`, but also close the connection if the guest has not answered for *limit* seconds.

        Args:
            since: when the wait began, on the monotonic clock; only the time from here on counts.
            limit: seconds. If the console shows that the kernel has halted or restarts, a few seconds are enough.

        Raises:
            BootFailed: the kernel has halted.
            ConnectionFailed: the guest does not answer, or restarts.
        """
        self._health.check()
        silence = min(self._health.silence(), monotonic() - since)
        ending = self._health.ending
        if ending is not None and silence > min(limit, ANSWER_SECONDS):
            self.disconnect()
            self._health.check_halted()
            self.expect_boot()
            raise ConnectionFailed(f"guest {self._name} restarts ({ending!r} on its console) and lost the connection")
        if silence > limit:
            self.disconnect()
            self.expect_boot()
            raise ConnectionFailed(
                f"guest {self._name} was silent for {silence:.0f} s: its SSH server answered no keepalive\n"
                "  its network may be down, or its kernel may have stopped; guest.console.tail() shows its last lines\n"
                "  kill() and start() boot it again; if it is slow: --xhyve-timeout-factor=2"
            )

    def explain_loss(self) -> None:
        """Like `Health.check`, after the connection is lost: it breaks a little before the hypervisor exits."""
        self.expect_boot()
        self._find_machine().wait_for_exit(_END_SECONDS)
        self._health.check()
