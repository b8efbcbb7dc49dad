"""Resume the guests of a bundle: a shell, a command or the console in one of them."""

from __future__ import annotations

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
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.resuming import Bundle, BundleError, ResumeOptions, Resumption
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.errors import BootFailed, ConnectionFailed, XhyveError
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.text import printable

_NO_LOGIN = "  the guest may not have answered at the moment of the failure, either: --console needs no login"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user wants.

    Attributes:
        guest: the name of the guest; None for the first one.
        command: a command to run in it; empty for a shell.
        console: whether to attach to its console in the place of a shell.
    """

    guest: str | None
    command: Sequence[str]
    console: bool


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
    ssh = "" if wanted.console else ssh_client.find_ssh()
    options = ResumeOptions(image, key, frozen_clock, progress.line)
    fleet = Fleet(settings, Home.of_user(), ProgressEvents(progress))
    with ssh_client.TerminationSignals() as signals, closing(fleet), ExitStack() as stack:
        bundle = stack.enter_context(Bundle.open(path))
        names = [guest.name for guest in bundle.guests]
        if wanted.guest is not None and wanted.guest not in names:
            raise BundleError(f"{path} has no guest {wanted.guest!r}; it has {', '.join(names)}")
        chosen = names.index(wanted.guest) if wanted.guest is not None else 0
        _introduce(bundle, progress)
        with progress.activity(f"resuming {', '.join(names)}"):
            context = fleet.run_context()
            # All first: what does not fit is known before anything starts.
            resumptions = [Resumption(bundle, saved, context, options) for saved in bundle.guests]
            if wanted.console:
                folder = stack.enter_context(_without_login(resumptions[chosen]))
            else:
                guests = [stack.enter_context(_with_login(resumption)) for resumption in resumptions]
        if wanted.console:
            attach(folder, names[chosen])
            return 0
        guest: Guest = guests[chosen]
        if wanted.command:
            return run_ssh(guest, ssh, [], ["--", *wanted.command], signals)
        return run_ssh(guest, ssh, shell_options(), [], signals)


@contextmanager
def _with_login(resumption: Resumption) -> Iterator[Guest]:
    with ExitStack() as stack:
        try:
            guest = stack.enter_context(resumption.guest())
        except (BootFailed, ConnectionFailed) as error:
            raise XhyveError(f"{error}\n{_NO_LOGIN}") from error
        yield guest


@contextmanager
def _without_login(resumption: Resumption) -> Iterator[Path]:
    """The folder of the running guest, which may be unable to answer over SSH."""
    with resumption.running() as (process, instance, machine):
        start = resumption.start(instance, machine)
        if start is None:
            with instance.hypervisor.running(machine, process):
                yield process.folder
        else:
            with start.running() as vm:
                start.make_ready(vm)
                yield process.folder


def _introduce(bundle: Bundle, progress: Progress) -> None:
    failure = bundle.failure
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(failure.time))
    progress.line(printable(f"{failure.test} failed ({failure.when}) at {when}: {failure.error}"))
