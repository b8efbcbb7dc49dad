"""Run the plugin's own commands in a guest, as root."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pytest_xhyve.guest.agent import RunAsRoot
from pytest_xhyve.model.errors import XhyveError

if TYPE_CHECKING:
    from pytest_xhyve.guest.power import Power
    from pytest_xhyve.model.image import Image

# No line of the plugin's prints as much.
_MAX_OUTPUT_BYTES = 16 << 20


class WithPower(Protocol):
    """The part of a guest by which its commands run."""

    @property
    def name(self) -> str: ...

    @property
    def image(self) -> Image: ...

    @property
    def _power(self) -> Power: ...


def root_shell(guest: WithPower, timeout: float) -> RunAsRoot:
    """A function that runs a shell line in *guest* as root; no report shows it among a test's commands.

    It raises `XhyveError` with the line's output if the exit code is not 0.

    Args:
        guest: a running guest.
        timeout: the limit of each line, in seconds.
    """
    from pytest_xhyve.guest import commands, shell  # noqa: PLC0415

    def run_as_root(line: str, data: bytes) -> str:
        as_root = shell.shell_line(
            line,
            env=None,
            user="root",
            login_user=guest.image.user,
            timeout=timeout,
            password=guest.image.password,
        )
        done = commands.run(
            guest._power.login.connection(),
            as_root,
            shown=line,
            check=False,
            timeout=timeout,
            input=data,
            most=_MAX_OUTPUT_BYTES,
        )
        if done.returncode != 0:
            raise XhyveError((done.stderr or done.stdout).strip() or f"exit code {done.returncode}")
        return done.stdout

    return run_as_root
