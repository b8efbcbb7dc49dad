"""Resume the guests of a bundle: a shell, a command or the console in one of them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_xhyve.cli import ssh_client
from pytest_xhyve.cli.console_client import attach
from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.cli.progress_events import ProgressEvents
from pytest_xhyve.cli.run_guest import run_ssh, shell_options
from pytest_xhyve.fleet.bundle import Bundle, BundleError
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.resumed_guests import resumed_guests
from pytest_xhyve.fleet.resuming import ResumeOptions
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.errors import BootFailed, ConnectionFailed, XhyveError
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.text import printable
from pytest_xhyve.model.values import suggest
from pytest_xhyve.templates.saved_guest import SavedGuest

_NO_LOGIN = "  the guest may not have answered at the moment of the failure, either: --console needs no login"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user wants.

    Attributes:
        guest: the name of the guest; None for the one whose command failed last, or else the first one.
        command: a command to run in it; empty for a shell.
        console: whether to attach to its console in the place of a shell.
        gdb: whether it stays paused until gdb, at a socket that is shown, lets it go on; with its console.
    """

    guest: str | None
    command: Sequence[str]
    console: bool
    gdb: bool

    @property
    def needs_login(self) -> bool:
        """Whether it has to answer over SSH."""
        return not (self.console or self.gdb)


def resume(
    path: Path,
    settings: Settings,
    wanted: Wanted,
    *,
    image: Path | None,
    key: Path | None,
    frozen_clock: bool,
    progress: Progress,
) -> int:
    """Let all guests of the bundle *path* go on, until the user leaves the shell, the command or the console.

    Args:
        path: the bundle.
        settings: of the hypervisor.
        wanted: what to do in a guest.
        image: the manifest of the image, if the user names it.
        key: the private key to log in with; None for the image's.
        frozen_clock: whether the clock stays at the moment of the failure.
        progress: shows what takes long.

    Returns:
        the exit code of the command or the shell.

    Raises:
        XhyveError: the bundle is damaged, or a guest cannot be resumed.
    """
    ssh = ssh_client.find_ssh() if wanted.needs_login else ""
    fleet = Fleet(settings, Home.of_user(), ProgressEvents(progress))
    with ssh_client.TerminationSignals() as signals, closing(fleet), ExitStack() as stack:
        bundle = stack.enter_context(Bundle.open(path))
        chosen = _choose(bundle, wanted.guest)
        _introduce(bundle, chosen, progress)
        options = ResumeOptions(image, key, frozen_clock, progress.line, chosen.key if wanted.gdb else None)

        def wants_login(saved: SavedGuest) -> bool | None:
            # The others run, whether they answer or not.
            return wanted.needs_login if saved is chosen else None

        with progress.activity(f"resuming {', '.join(guest.key for guest in bundle.guests)}"), _hinting():
            guests = stack.enter_context(resumed_guests(bundle, fleet, options, wants_login))
        resumed = next(each for each in guests if each.saved is chosen)
        if resumed.debugger is not None:
            _explain_debugger(chosen, resumed.debugger, progress)
        if resumed.guest is None:
            attach(resumed.folder, chosen.key)
            return 0
        if wanted.command:
            return run_ssh(resumed.guest, ssh, [], ["--", *wanted.command], signals)
        return run_ssh(resumed.guest, ssh, shell_options(), [], signals)


def _choose(bundle: Bundle, name: str | None) -> SavedGuest:
    """The guest that the user names; else the one whose command failed last; else the first one."""
    guests = bundle.guests
    if name is not None:
        for guest in guests:
            if name == guest.key:
                return guest
        known = ", ".join(guest.key for guest in guests)
        raise BundleError(f"{bundle.path} has no guest {name!r}{suggest(name, known.split(', '))}; it has {known}")
    last = bundle.failure.commands[-1] if bundle.failure.commands else None
    failed = last.guest if last is not None and last.returncode != 0 else ""
    return next((guest for guest in guests if guest.name == failed), guests[0])


@contextmanager
def _hinting() -> Iterator[None]:
    try:
        yield
    except (BootFailed, ConnectionFailed) as error:
        raise XhyveError(f"{error}\n{_NO_LOGIN}") from error


def _explain_debugger(chosen: SavedGuest, debugger: Path, progress: Progress) -> None:
    state = "is paused until gdb lets it go on" if chosen.has_memory else "runs until gdb attaches"
    progress.line(f"guest {chosen.key} {state}; in another terminal:")
    # A socket's path may have about 100 bytes (unix(7)), so gdb gets a relative one.
    options = [f"cd {debugger.parent}", f"target remote {debugger.name}"]
    progress.line("  " + shlex.join(["gdb", *(word for option in options for word in ("-ex", option))]))


def _introduce(bundle: Bundle, chosen: SavedGuest, progress: Progress) -> None:
    failure = bundle.failure
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(failure.time))
    progress.line(printable(f"{failure.test} failed ({failure.when}) at {when}: {failure.error}"))
    if len(bundle.guests) > 1:
        names = ", ".join(guest.key for guest in bundle.guests)
        progress.line(f"its guests: {names}; you get {chosen.key} (--guest NAME chooses another one)")
    for guest in bundle.guests:
        again = guest.faults_of_lans()
        for place, fault in guest.faults:
            state = "holds again" if (place, fault) in again else "does not hold any more"
            progress.line(printable(f"guest {guest.key}: the fault {place}: {fault} {state}"))
