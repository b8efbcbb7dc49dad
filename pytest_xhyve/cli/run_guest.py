"""One guest without a test: a command in it, or a shell."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing

from pytest_xhyve.cli import ssh_client
from pytest_xhyve.cli.password import with_password
from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.cli.progress_events import ProgressEvents
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.processes import with_parent_death_signal
from pytest_xhyve.hypervisors.base import ExitReason
from pytest_xhyve.images.catalog import read_stated
from pytest_xhyve.images.own_login import OwnLogin
from pytest_xhyve.images.places import Places
from pytest_xhyve.model.errors import HypervisorExited
from pytest_xhyve.model.options import PASSWORD_VARIABLE
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

_LOOK_SECONDS = 0.5
_EXIT_SECONDS = 1.0
# Without this, ssh does not notice the death of a guest that has its own address.
_ALIVE = ("-o", "ServerAliveInterval=15")
_NORMAL = (ExitReason.POWERED_OFF, ExitReason.RESTARTED, ExitReason.HALTED)


def run_command(
    spec: GuestSpec,
    settings: Settings,
    command: Sequence[str],
    *,
    ttys: int,
    save_as: str | None,
    progress: Progress,
) -> int:
    """Run a command in a new guest, as ``ssh guest COMMAND`` does.

    Args:
        spec: the guest.
        settings: the guest's settings.
        command: the command's arguments, which ssh joins for the guest's shell.
        ttys: how often the user gave ``-t``, as ssh counts it.
        save_as: the name of the image that the guest is kept as if the exit code is 0; None to keep none.
        progress: shows what takes long.

    Returns:
        ssh's exit code.

    Raises:
        XhyveError: the guest did not start, or it died.
        SystemExit: a signal ended this process; the guest is removed.
    """
    return _in_new_guest(spec, settings, ["-t"] * ttys, ["--", *command], progress, save_as)


def run_shell(spec: GuestSpec, settings: Settings, *, progress: Progress) -> int:
    """Like `run_command`, but run the guest's login shell: on the terminal, or with a script on standard input."""
    return _in_new_guest(spec, settings, shell_options(), [], progress)


def _in_new_guest(
    spec: GuestSpec,
    settings: Settings,
    options: Sequence[str],
    command: Sequence[str],
    progress: Progress,
    save_as: str | None = None,
) -> int:
    ssh = ssh_client.find_ssh()
    home = Home.of_user()
    settings = with_password(settings, read_stated(str(spec.image), OwnLogin.of(settings), Places.of(home, settings)))
    fleet = Fleet(settings, home, ProgressEvents(progress))
    with ssh_client.TerminationSignals() as signals, closing(fleet):
        with progress.activity("looking for a hypervisor"):
            # First, because without a hypervisor it is useless to build an image.
            hypervisor = fleet.hypervisor.info.name
        with progress.activity(f"starting a guest of {spec.image} under {hypervisor}"):
            guest = fleet.start(ForegroundRequest(spec))
        with guest:
            code = run_ssh(guest, ssh, options, command, signals)
            if save_as is not None:
                _save(guest, save_as, code, progress)
            return code


def _save(guest: Guest, name: str, code: int, progress: Progress) -> None:
    """Keep *guest* as the image *name* if the *code* of its command is 0."""
    if code != 0:
        progress.line(f"the image {name} was not saved: the command ended with exit code {code}")
        return
    with progress.activity(f"saving the guest as {name}"):
        image = guest.save_as_image(name)
    progress.line(f"saved {image.name}: use it as --xhyve-image={image.name}")


def run_ssh(
    guest: Guest, ssh: str, options: Sequence[str], command: Sequence[str], signals: ssh_client.TerminationSignals
) -> int:
    """Run OpenSSH's client, and return its exit code.

    Args:
        guest: the guest that it logs in to.
        ssh: its path.
        options: its options.
        command: the command for the guest, after ``--``; empty for a shell.
        signals: raises `SystemExit` in the block around this call.

    Raises:
        XhyveError: the guest died.
    """
    _, *login, name = guest.ssh_command()
    argv = [ssh, *login, *_ALIVE, *options, name, *command]
    # If this process dies, ssh gets SIGHUP, so that it restores the terminal's settings.
    return _wait_for_ssh(guest, with_parent_death_signal(argv, signal="HUP"), signals)


def shell_options() -> list[str]:
    """The options of ssh for a shell."""
    has_terminal = sys.stdin is not None and sys.stdin.isatty()
    # Without -T, ssh warns that standard input is not a terminal.
    return [] if has_terminal else ["-T"]


def _wait_for_ssh(guest: Guest, argv: Sequence[str], signals: ssh_client.TerminationSignals) -> int:
    with ssh_client.running(argv, signals, _password_environment(guest)) as client:
        while (code := client.wait(_LOOK_SECONDS)) is None:
            try:
                # This raises an error after a kernel panic; ssh alone would wait for the guest's output.
                guest._power.health.check()
            except HypervisorExited:
                # ssh may notice this itself and exit.
                code = client.wait(_EXIT_SECONDS)
                break
    if code is None or (code == ssh_client.FAILED and not guest.is_healthy()):
        _explain_loss(guest)
        return ssh_client.FAILED
    return code


def _password_environment(guest: Guest) -> dict[str, str]:
    """The environment in which ssh gets the password of the guest's image, if it logs in by one (ssh(1))."""
    image = guest.image
    if image.key is not None or image.password is None:
        return {}
    program = guest.console.path.parent / "askpass"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "${PASSWORD_VARIABLE}"\n')
    program.chmod(0o700)
    return {
        "SSH_ASKPASS": str(program),
        "SSH_ASKPASS_REQUIRE": "force",
        PASSWORD_VARIABLE: image.password.reveal(),
    }


def _explain_loss(guest: Guest) -> None:
    """Raise an error with the reason why *guest* is lost, unless it powered off or restarted normally.

    Raises:
        XhyveError: the guest is lost; the message states the reason.
    """
    try:
        guest._power.login.explain_loss()
    except HypervisorExited:
        if guest._power.machine.exit_reason() not in _NORMAL:
            raise
