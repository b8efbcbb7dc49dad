"""One guest without a test: a command in it, or a shell."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing

from pytest_xhyve.cli import ssh_client
from pytest_xhyve.cli.guest_options import with_cli_option_names
from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.events import Events
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.processes import with_parent_death_signal
from pytest_xhyve.hypervisors.base import ExitReason
from pytest_xhyve.model.errors import HypervisorExited
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

_LOOK_SECONDS = 0.5
_LAST_WORDS_SECONDS = 1.0
# Where a guest has an address of its own, nobody tells when it is gone.
_ALIVE = ("-o", "ServerAliveInterval=15")
_OF_ITS_OWN = (ExitReason.POWERED_OFF, ExitReason.RESTARTED, ExitReason.HALTED)


class _ProgressEvents(Events):
    """Shows the progress of a start on the terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def progress(self, line: str) -> None:
        self._progress.line(with_cli_option_names(line))

    def phase(self, guest: str, name: str) -> None:
        del guest
        self._progress.step(name)


def run_command(image: str, settings: Settings, words: Sequence[str], *, ttys: int, progress: Progress) -> int:
    """Run a command in a new guest of *image*, as ``ssh guest WORDS`` does.

    Args:
        image: a name of the catalog, or a path.
        settings: what the guest is made with.
        words: the command, which ssh joins for the guest's shell.
        ttys: how often a terminal was asked for, as ssh counts ``-t``.
        progress: tells of what takes long.

    Returns:
        ssh's exit code.

    Raises:
        XhyveError: there is no guest, or it died.
        SystemExit: a signal ended us; the guest is gone.
    """
    return _in_new_guest(image, settings, ["-t"] * ttys, ["--", *words], progress)


def run_shell(image: str, settings: Settings, *, progress: Progress) -> int:
    """As `run_command`, with the guest's login shell: on our terminal, or with a script on standard input."""
    has_terminal = sys.stdin is not None and sys.stdin.isatty()
    # Without -T, it warns that there is no terminal.
    return _in_new_guest(image, settings, [] if has_terminal else ["-T"], [], progress)


def _in_new_guest(
    image: str, settings: Settings, options: Sequence[str], command: Sequence[str], progress: Progress
) -> int:
    ssh = ssh_client.find_ssh()

    fleet = Fleet(settings, Home.of_user(), _ProgressEvents(progress))
    with ssh_client.TerminationSignals() as signals, closing(fleet):
        with progress.activity("looking for a hypervisor"):
            # Before an image is built in vain.
            hypervisor = fleet.hypervisor.info.name
        with progress.activity(f"starting a guest of {image} under {hypervisor}"):
            guest = fleet.start(ForegroundRequest(GuestSpec(image=image)))
        with guest:
            _, *login, name = guest.ssh_command()
            argv = [ssh, *login, *_ALIVE, *options, name, *command]
            # In a way that lets it put the terminal in order.
            return _talk(guest, with_parent_death_signal(argv, signal="HUP"), signals)


def _talk(guest: Guest, argv: Sequence[str], signals: ssh_client.TerminationSignals) -> int:
    with ssh_client.running(argv, signals) as client:
        while (code := client.wait(_LOOK_SECONDS)) is None:
            try:
                # A panic goes up from here: ssh would wait for the guest's next word.
                guest._power.check_alive()
            except HypervisorExited:
                # It may be about to notice itself.
                code = client.wait(_LAST_WORDS_SECONDS)
                break
    if code is None or (code == ssh_client.FAILED and not guest.is_healthy()):
        _explain_loss(guest)
        return ssh_client.FAILED
    return code


def _explain_loss(guest: Guest) -> None:
    """Raise what tells why *guest* is gone, unless it was told to go."""
    try:
        guest._power.explain_loss()
    except HypervisorExited:
        if guest._power.machine.exit_reason() not in _OF_ITS_OWN:
            raise
