"""All errors of the plugin, as one tree.

    XhyveError
    ├── ConfigurationError     an invalid option, ini value, marker or manifest (pytest shows it as a usage error)
    ├── ImageError             an image that is missing, damaged, or cannot be built
    ├── TemplateError          a template cannot be made or used; with start=auto, the guest boots instead
    ├── HypervisorNotFound     no program found on this host that can run a guest
    ├── NoFreeSlot             the limit of running guests is reached
    ├── NotSupported           this hypervisor cannot do that; the message names one that can
    ├── BootFailed             a guest did not boot; has the last lines of the console
    │   ├── BootTimeout
    │   ├── LeaseNotFound      the guest runs, but the plugin cannot find its DHCP address
    │   ├── KernelPanic        also an oops and systemd's emergency mode
    │   └── HypervisorExited
    ├── ConnectionFailed       SSH failed: the login, or a guest that does not answer any more
    ├── LanFailed              the switch of a LAN has died, or refused a request
    ├── CommandFailed          a command in the guest ended with an exit code other than 0
    ├── CommandTimeout         a command in the guest exceeded its limit
    └── WaitTimeout            a condition that a test waited for did not become true in time

Every message states what happened, what was tried, and what to do. `XhyveWarning` is a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from pytest_xhyve.model.text import printable

if TYPE_CHECKING:
    from pytest_xhyve.model.completed import Completed
    from pytest_xhyve.model.evidence import Evidence

_Error = TypeVar("_Error", bound=type[Exception])


def _public(error: _Error) -> _Error:
    """Give *error* the module that users import it from, so that reports show ``pytest_xhyve.CommandFailed``."""
    error.__module__ = "pytest_xhyve"
    return error


@_public
class XhyveError(Exception):
    """Base class of all errors that this plugin raises."""

    evidence: Evidence | None = None
    """Diagnostics of a guest that did not boot, for the report."""

    def __str__(self) -> str:
        # A message may contain what a guest sent.
        return printable(self._describe())

    def _describe(self) -> str:
        return super().__str__()


@_public
class ConfigurationError(XhyveError):
    """An option, ini value, marker or manifest is invalid."""


@_public
class ImageError(XhyveError):
    """An image is missing, is damaged, or cannot be built."""


@_public
class TemplateError(XhyveError):
    """A guest cannot be restored from a template."""


@_public
class HypervisorNotFound(XhyveError):
    """This host has no program that can run a guest."""


@_public
class NoFreeSlot(XhyveError):
    """The limit of guests that run at the same time is reached."""


@_public
class NotSupported(XhyveError):
    """The hypervisor in use cannot do this."""


@_public
class BootFailed(XhyveError):
    """A guest did not boot, or stopped running.

    Args:
        message: states what happened, what was tried, and what to do.
        console: the last lines of the guest's console.
    """

    def __init__(self, message: str, *, console: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.console = console
        self.phases: Mapping[str, float] = {}
        """Seconds of each phase of the start; the last one is the phase that failed. Empty once SSH has answered."""
        self.hints: Sequence[str] = ()
        """Hints at the cause and the fix, one line each."""

    @property
    def phase(self) -> str:
        """The phase that failed; empty once SSH has answered."""
        return list(self.phases)[-1] if self.phases else ""

    def _describe(self) -> str:
        lines = [self.message]
        if self.phases:
            times = " · ".join(f"{phase} {seconds:.1f} s" for phase, seconds in self.phases.items())
            lines.append(f"  it got as far as: {self.phase} ({times})")
        if self.console:
            lines += ["  last on the console:", *(f"    {line}" for line in self.console.splitlines())]
        elif self.phases:
            lines.append("  the console is empty")
        if self.hints:
            lines += ["  what may help:", *(f"    {hint}" for hint in self.hints)]
        return "\n".join(lines)


@_public
class BootTimeout(BootFailed):
    """A guest did not answer over SSH within the limit."""


@_public
class LeaseNotFound(BootFailed):
    """A guest runs, but has no address: it did not ask for one by DHCP, or no DHCP server answered."""


@_public
class LanFailed(XhyveError):
    """The switch between the guests of a LAN has died, does not answer, or refused a request."""


@_public
class KernelPanic(BootFailed):
    """The guest's kernel panicked or oopsed, or systemd entered its emergency mode."""


@_public
class HypervisorExited(BootFailed):
    """The hypervisor exited while its guest was still needed."""


@_public
class ConnectionFailed(XhyveError):
    """The guest's SSH server answered, but the login failed, or the guest does not answer any more."""

    broke = False
    """True if the connection was lost; False if the guest refused the plugin's key, or the plugin its host key."""


@_public
class CommandFailed(XhyveError):
    """A command in the guest ended with an exit code other than 0.

    Args:
        completed: the command's exit code and output.
    """

    def __init__(self, completed: Completed) -> None:
        self.completed = completed
        super().__init__(f"command failed with exit code {completed.returncode}\n{completed.report()}")


@_public
class CommandTimeout(XhyveError):
    """A command in the guest did not end within its limit.

    Args:
        completed: the output until then; `returncode` is -1.
        timeout: the limit, in seconds.
    """

    def __init__(self, completed: Completed, timeout: float) -> None:
        self.completed = completed
        self.timeout = timeout
        super().__init__(f"command did not end within {timeout:g} s; its output until then:\n{completed.report()}")


class Cancelled(Exception):
    """Not an error: a prewarmed guest is not needed any more, or cannot be started now."""


@_public
class WaitTimeout(XhyveError):
    """A condition that a test waited for did not become true in time."""


@_public
class XhyveWarning(UserWarning):
    """Something is not as the test may expect, such as a file that `Guest.get` left out."""
