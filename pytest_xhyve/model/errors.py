"""What can go wrong, as one tree.

    XhyveError
    ├── ConfigurationError     a wrong option, ini value, marker or manifest (pytest shows it as a usage error)
    ├── ImageError             an image that is missing, damaged, or cannot be built
    ├── TemplateError          no template can be made, or used; where nobody insists on one, the guest boots
    ├── HypervisorNotFound     no program here that can run a guest
    ├── NoFreeSlot             as many guests are alive as may be
    ├── NotSupported           this hypervisor cannot do that; the message names one that can
    ├── BootFailed             a guest did not come up; carries the console's tail
    │   ├── BootTimeout
    │   ├── LeaseNotFound      it runs, and DHCP has given it no address that can be found
    │   ├── KernelPanic        also an oops and systemd's emergency mode
    │   └── HypervisorExited
    ├── ConnectionFailed       SSH refused us: an unknown host key, a key that may not log in
    ├── CommandFailed          a command in the guest ended with another code than 0
    ├── CommandTimeout         a command in the guest took too long
    └── WaitTimeout            what a test waited for did not happen

Every message says what happened, what was tried, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

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
    """Base of all errors that this plugin raises."""

    evidence: Evidence | None = None
    """What is known of a guest that did not come up, for whoever reports the error."""


@_public
class ConfigurationError(XhyveError):
    """An option, ini value, marker or manifest that is invalid."""


@_public
class ImageError(XhyveError):
    """An image that is missing, damaged, or cannot be built."""


@_public
class TemplateError(XhyveError):
    """No guest can be restored from a template."""


@_public
class HypervisorNotFound(XhyveError):
    """No program was found here that can run a guest."""


@_public
class NoFreeSlot(XhyveError):
    """As many guests are alive as may be at once."""


@_public
class NotSupported(XhyveError):
    """The hypervisor in use cannot do this."""


@_public
class BootFailed(XhyveError):
    """A guest did not come up, or went down.

    Args:
        message: what happened, what was tried, what to do.
        console: the last lines of the guest's console.
    """

    def __init__(self, message: str, *, console: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.console = console
        self.phases: Mapping[str, float] = {}
        """How long each part of coming up took, in seconds; the last one is where it ended. Empty once it was up."""
        self.hints: Sequence[str] = ()
        """What may help whoever looks for the cause, a line each."""

    @property
    def phase(self) -> str:
        """The part of coming up in which it ended; empty once it was up."""
        return list(self.phases)[-1] if self.phases else ""

    def __str__(self) -> str:
        lines = [self.message]
        if self.phases:
            times = " · ".join(f"{phase} {seconds:.1f} s" for phase, seconds in self.phases.items())
            lines.append(f"  it got as far as: {self.phase} ({times})")
        if self.console:
            lines += ["  last on the console:", *(f"    {line}" for line in self.console.splitlines())]
        elif self.phases:
            lines.append("  nothing came on the console")
        if self.hints:
            lines += ["  what may help:", *(f"    {hint}" for hint in self.hints)]
        return "\n".join(lines)


@_public
class BootTimeout(BootFailed):
    """A guest did not answer in time."""


@_public
class LeaseNotFound(BootFailed):
    """A guest runs, and no address of it can be found: it did not ask by DHCP, or nobody answered."""


@_public
class KernelPanic(BootFailed):
    """The guest's kernel panicked or oopsed, or its init gave up."""


@_public
class HypervisorExited(BootFailed):
    """The hypervisor ended while its guest was needed."""


@_public
class ConnectionFailed(XhyveError):
    """SSH answered, and no session came of it."""

    broke = False
    """Whether the connection broke; otherwise the guest did not take our key, or we not its host key."""


@_public
class CommandFailed(XhyveError):
    """A command in the guest ended with another code than 0.

    Args:
        completed: the command's code and output.
    """

    def __init__(self, completed: Completed) -> None:
        self.completed = completed
        super().__init__(f"command failed with code {completed.returncode}\n{completed.report()}")


@_public
class CommandTimeout(XhyveError):
    """A command in the guest took longer than it may.

    Args:
        completed: what was read until then; its returncode is -1.
        timeout: the limit, in seconds.
    """

    def __init__(self, completed: Completed, timeout: float) -> None:
        self.completed = completed
        self.timeout = timeout
        super().__init__(f"command did not end within {timeout:g} s; what came until then:\n{completed.report()}")


class Cancelled(Exception):
    """Not an error: a guest that nobody has asked for yet is not made, as it is not wanted any more or not now."""


@_public
class WaitTimeout(XhyveError):
    """What a test waited for did not happen in time."""
