"""The guest that a test gets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, get_args

from pytest_xhyve.guest import restarts, tunnel
from pytest_xhyve.guest.faults import GuestFaults
from pytest_xhyve.model.errors import (
    ConfigurationError,
    XhyveError,
)
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.values import PortProtocol, parse_choice, parse_port

if TYPE_CHECKING:
    import testinfra

    from pytest_xhyve.model.completed import Completed
    from pytest_xhyve.model.kept import Kept

KeepPolicy = Callable[["Guest", BaseException | None], str | None]
"""Decides at the end of a guest's block whether the guest is kept.

It gets the guest and the error that ended the block, or None. It returns the test, class or module to keep the guest
for, or None to remove the guest.
"""


@dataclass(frozen=True, slots=True)
class Ownership:
    """What the fleet, which owns the guest, gives to it.

    Attributes:
        resources: everything that the guest uses; closed when the guest is removed.
        keep: lets the guest stay after the run; gets what the guest is kept for.
        reason_to_keep: decides whether the guest is kept.
        save: keeps the guest's disk as an image; gets the image's name.
    """

    resources: ExitStack
    keep: Callable[[str], Kept]
    reason_to_keep: KeepPolicy
    save: Callable[[str], Image]


class Guest(GuestFaults):
    """A disposable Linux machine.

    The fixtures make guests and remove them. A guest that is used as a context manager is removed at the end of the
    block.
    """

    _owner: Ownership | None = None
    _is_removed = False
    _prewarmed = False
    # When it was requested, in seconds since the epoch, and for how many seconds that waited for a slot.
    _requested = (0.0, 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._keep_or_remove(error)
        except XhyveError as second:
            if error is None:
                raise
            # The user has to see the first error.
            error.add_note(f"and then guest {self.name} could not be removed: {second}")

    def __repr__(self) -> str:
        return f"<Guest {self.name} ({self.image.name})>"

    @property
    def prewarmed(self) -> bool:
        """Whether the guest was started before its test asked for it (``--xhyve-prewarm``)."""
        return self._prewarmed

    def forward(self, port: int, *, protocol: PortProtocol = "tcp") -> tuple[str, int]:
        """Make the guest's *port* reachable from the host until the guest is switched off or removed.

        If a service of TCP listens on the guest's loopback interface only, connections go to it over SSH. To any other
        service they come from outside of the guest, so that its firewall applies.

        Args:
            port: from 1 to 65535.
            protocol: ``tcp`` or ``udp``.

        Returns:
            the address and the port to connect to: on the host's loopback interface, or the guest's own.

        Raises:
            ConfigurationError: *port* or *protocol* is invalid.
            XhyveError: the guest is off, or the hypervisor cannot forward the port.
        """
        parse_port(port)
        power = self._power
        if parse_choice(*get_args(PortProtocol))(protocol) == "tcp":
            endpoint = tunnel.forward(power.machine, power.tunnels, power.login.transport, self._try, port)
        else:
            endpoint = power.machine.forward(port, protocol)
        return endpoint.host, endpoint.port

    def expose(self, port: int, *, guest_port: int | None = None) -> tuple[str, int]:
        """Let programs in the guest reach a server of the test: TCP *port* on this host's loopback interface.

        Connections go over SSH, so that also an isolated guest reaches the server. The guest reaches it again after
        each restart, as soon as the plugin has logged in; a guest that is reset, those that its fixtures have exposed.
        The server may start later: until then, the guest's connections are closed at once.

        Args:
            port: the port of the server, on 127.0.0.1 or ::1; from 1 to 65535.
            guest_port: the port at which the guest reaches it; None for the same number.

        Returns:
            the name and the port for programs in the guest: ``host.test``, which is in the guest's hosts file as
            127.0.0.1, and *guest_port*.

        Raises:
            ConfigurationError: a port is invalid, or the guest may reach nothing (``network="none"``).
            XhyveError: the guest is off, *guest_port* is taken in the guest, or its SSH server forwards no ports.
        """
        target = parse_port(port if guest_port is None else guest_port)
        power = self._power
        if self._machine.nics[0].network == "none":
            raise ConfigurationError(
                f'guest {self.name} has network="none", so it may not reach the test\n  use network="isolated"'
            )
        return self._exposed.add(power.login.connection(), parse_port(port), target, self._try)

    def screenshot(self, path: str | os.PathLike[str]) -> Path:
        """Save a picture of the guest's screen.

        Args:
            path: the PNG file to write; folders above it are created.

        Returns:
            *path*.

        Raises:
            NotSupported: the guest has no graphics card.
            XhyveError: the guest is off.
        """
        from pytest_xhyve.guest import screen  # noqa: PLC0415

        target = Path(path)
        picture = screen.take(self.name, self._machine, self._power.machine)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(picture)
        return target

    def testinfra_host(self) -> testinfra.host.Host:
        """The guest as a host of testinfra, whose commands run as with `run`; it needs the package pytest-testinfra.

        Raises:
            XhyveError: the package is not installed.
        """
        try:
            from pytest_xhyve.guest.testinfra_backend import host_of  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise XhyveError(
                f"testinfra_host() needs the package pytest-testinfra: {error}\n  pip install pytest-testinfra"
            ) from error
        return host_of(self)

    def reboot(self) -> None:
        """Reboot the guest from inside, and wait until SSH answers again.

        systemd stops each unit first, and drops what is left of the boot before. The kernel's boot id (random(4))
        proves that it has rebooted.

        Raises:
            BootFailed: the guest did not reboot.
            ConnectionFailed: the guest does not answer, or refuses the login after its reboot.
            XhyveError: the guest is off.
        """
        restarts.reboot(self._power, self.run, self.start)
        self._faults.restarted()

    @contextmanager
    def expect_reboot(self, timeout: float | None = None) -> Iterator[None]:
        """For a block whose commands reboot the guest: at its end, wait until the guest answers again.

        If the reboot ends a command of the block, that is not an error.

        Args:
            timeout: the limit in seconds; None for the limits of a shutdown and a boot together.

        Raises:
            BootFailed: the guest did not reboot, or died.
        """
        __tracebackhide__ = True
        with restarts.expect_reboot(self._power, self.run, self.start, timeout):
            yield
        self._faults.restarted()

    def shutdown(self) -> None:
        """Shut the guest down from inside and wait until it is off; its disk stays for `start`.

        If SSH does not answer any more, the plugin presses the power button (ACPI).

        Raises:
            BootTimeout: the guest did not shut down in time.
        """
        restarts.shut_down(self._power)

    def remove(self) -> None:
        """Remove the guest: end its machine, delete its disk, free its slot. A second call does nothing.

        Raises:
            XhyveError: the hypervisor does not end.
        """
        if not self._is_removed:
            self._instance.events.removing(self)
        self._is_removed = True
        if self._owner is None:
            self._switch_off()
        else:
            self._owner.resources.close()

    def keep(self, by: str) -> Kept:
        """Let the guest run on when it is removed here; it ends with `pytest-xhyve reap` or when it powers off.

        Args:
            by: the test, class or module that the guest is kept for; people read it in listings.

        Raises:
            XhyveError: the guest is off, its kernel has panicked, or the fleet does not own it.
        """
        if self._owner is None:
            raise XhyveError(f"guest {self.name} has no owner that can keep it")
        self._power.health.check()
        self._end_throttle()
        return self._owner.keep(by)

    def save_as_image(self, name: str) -> Image:
        """Shut the guest down, and keep its disk as the image *name*, from which guests can be started at once.

        The image is a layer over the guest's own image, in the cache folder. `start` boots this guest again.

        Args:
            name: the name for ``image=`` and ``--xhyve-image``: letters, digits, dots and dashes. If a guest was saved
                by it before, the name is that of the new image.

        Raises:
            ConfigurationError: an image cannot have that name, or one of the catalog has it.
            NotSupported: the guest has more than one disk.
            BootTimeout: the guest did not shut down in time.
            XhyveError: the fleet does not own the guest, or the image cannot be made.
        """
        if self._owner is None:
            raise XhyveError(f"guest {self.name} has no owner that can save it")
        return self._owner.save(name)

    def _keep_or_remove(self, error: BaseException | None = None) -> None:
        """Remove the guest, or keep it if its owner has a reason; *error* ended the block around it, if not None."""
        if self._owner is not None and not self._is_removed:
            by = self._owner.reason_to_keep(self, error)
            try:
                if by is not None:
                    self.keep(by)
            except XhyveError as failure:
                self._instance.events.keep_failed(self, failure)
        self.remove()

    def _report_boot_failed(self, error: XhyveError) -> None:
        self._instance.events.boot_failed(self, error)

    @property
    def _is_owned(self) -> bool:
        return self._owner is not None

    def _report_command(self, completed: Completed, *, checked: bool) -> None:
        self._instance.events.command_finished(self, completed, checked=checked)

    def _report_fetched(self, local: Path) -> None:
        self._instance.events.file_fetched(self, local)
