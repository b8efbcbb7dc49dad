"""The guest that a test gets."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, overload

from pytest_xhyve.guest import chaos, recorder, restarts, shell, ssh_config, transcript, tunnel, waits
from pytest_xhyve.guest.chaos import Chaos
from pytest_xhyve.guest.console import Console
from pytest_xhyve.guest.fault_notes import FaultNotes
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.power import Power
from pytest_xhyve.guest.recorder import WriteRecorder
from pytest_xhyve.guest.shell import Command, ShellLine
from pytest_xhyve.guest.start import BootMachine, Start
from pytest_xhyve.hypervisors.base import Endpoint, HypervisorInfo, VirtualMachine
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import (
    BootFailed,
    CommandFailed,
    CommandTimeout,
    ConfigurationError,
    ConnectionFailed,
    NotSupported,
    XhyveError,
    XhyveWarning,
)
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import SSH_PORT, Disk, Machine
from pytest_xhyve.model.text import printable
from pytest_xhyve.model.values import parse_size

if TYPE_CHECKING:
    from datetime import datetime

    import paramiko

    from pytest_xhyve.guest.crash_disks import Check
    from pytest_xhyve.guest.disks import GuestDisk
    from pytest_xhyve.guest.put import Source
    from pytest_xhyve.guest.snapshots import Snapshot
    from pytest_xhyve.guest.sync import Synced
    from pytest_xhyve.guest.throttle import CpuThrottle
    from pytest_xhyve.hypervisors.block import BlockLayer
    from pytest_xhyve.model.completed import Completed
    from pytest_xhyve.model.crash_state import CrashState
    from pytest_xhyve.model.kept import Kept

# For how long one try of a wait lets the guest be silent, since it may have restarted.
_PATIENCE_SECONDS = 10.0
_MAX_OUTPUT = "256M"
# A clock that is less than this ahead counts as right.
_RIGHT_SECONDS = 0.5

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


class Guest:
    """A disposable Linux machine.

    The fixtures make guests and remove them. A guest that is used as a context manager is removed at the end of the
    block.
    """

    def __init__(
        self,
        instance: Instance,
        machine: Machine,
        *,
        boot: BootMachine | None = None,
        phases: Mapping[str, float] | None = None,
    ) -> None:
        self._instance = instance
        self._machine = machine
        self._boot: BootMachine = boot or partial(Start.boot, instance)
        self._phases = dict(phases or {})
        # If there is an owner, `remove` closes its stack, which switches this off.
        self._own_power = Power(machine, instance)
        self._recorder = WriteRecorder(machine.name, instance.process.folder)
        self._faults = FaultNotes()
        self._throttle: CpuThrottle | None = None
        self._crash: tuple[CrashState, Disk] | None = None
        self._before_use: Callable[[], None] | None = None
        self._owner: Ownership | None = None
        self._is_removed = False
        self._process = os.getpid()
        self._first_command: float | None = None
        self._prewarmed = False
        self._synced: Synced | None = None
        # When it was requested, in seconds since the epoch, and for how many seconds that waited for a slot.
        self._requested = (0.0, 0.0)

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

    def __reduce__(self) -> NoReturn:
        # multiprocessing and concurrent.futures pickle what they pass to another process.
        raise TypeError(
            f"cannot pickle guest {self.name}: pass guest.host and guest.port, or guest.ssh_command(), instead"
        )

    def __repr__(self) -> str:
        return f"<Guest {self.name} ({self.image.name})>"

    @property
    def name(self) -> str:
        """The guest's name. It is the host name, unless the guest boots directly and has no systemd."""
        return self._machine.name

    @property
    def uuid(self) -> str:
        """The machine's SMBIOS UUID, which depends on the slot."""
        return str(self._machine.uuid)

    @property
    def mac(self) -> str:
        """The Ethernet address of the first network card.

        Raises:
            XhyveError: the guest is off, and the hypervisor has not reported the address yet.
        """
        mac = self._machine.nics[0].mac or self._power.machine.mac
        if mac is None:
            raise XhyveError(f"the Ethernet address of guest {self.name} is not known yet")
        return mac

    @property
    def image(self) -> Image:
        """The image that the guest was cloned from."""
        return self._instance.image

    @property
    def machine(self) -> Machine:
        """The description of the guest's hardware."""
        return self._machine

    @property
    def hypervisor(self) -> HypervisorInfo:
        """The name, version and acceleration of the hypervisor that runs the guest."""
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
        """The address at which the test reaches the guest's SSH server.

        Raises:
            XhyveError: the guest is off, or has no address yet.
        """
        return self._ssh_endpoint().host

    @property
    def port(self) -> int:
        """The TCP port at which the test reaches the guest's SSH server; raises as `host` does."""
        return self._ssh_endpoint().port

    @property
    def phases(self) -> Mapping[str, float]:
        """The duration of each step from the request to the login, in seconds, in their order.

        The steps are ``image`` (find and check it, or build it), ``template`` (find and check it, or build it; only if
        the guest was restored), ``clone``, ``start`` (of the hypervisor), ``boot`` (to the SSH banner) or ``restore``
        and ``banner``, and ``login``.
        """
        return dict(self._phases)

    @property
    def first_command(self) -> float | None:
        """The duration of the first `run`, from the call to the command's output, in seconds; None before it."""
        return self._first_command

    @property
    def prewarmed(self) -> bool:
        """Whether the guest was started before its test asked for it (``--xhyve-prewarm``)."""
        return self._prewarmed

    def is_healthy(self) -> bool:
        """Whether the guest runs, without a kernel panic, and its SSH connection is open."""
        return self._power.is_healthy()

    @property
    def ssh(self) -> paramiko.SSHClient:
        """A connected paramiko client; it stays the same until the guest restarts or the connection breaks.

        Raises:
            BootFailed: the guest does not answer any more.
            ConnectionFailed: the guest answers, but the login failed.
        """
        return self._power.client()

    def run(
        self,
        command: Command,
        *,
        check: bool = True,
        timeout: float | None = None,
        input: str | bytes | None = None,  # noqa: A002
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: str | os.PathLike[str] | None = None,
        tty: bool = False,
        max_output: int | str = _MAX_OUTPUT,
        stream: bool = False,
    ) -> Completed:
        """Run *command* in the guest and wait for its end.

        Args:
            command: a line for the guest's shell, or a list: a program and its arguments, without a shell.
            check: raise `CommandFailed` if the exit code is not 0.
            timeout: the limit in seconds, after which the command is killed; None for no limit.
            input: the command's standard input.
            env: environment variables to set for the command.
            user: the user who runs the command, in the user's home folder and with the user's shell; None for the user
                that the image logs in as.
            cwd: the folder in which the command runs; a leading ``~`` is the user's home folder.
            tty: run the command in a terminal, for programs that need one. Its standard error is then part of its
                standard output.
            max_output: the limit of what the command may print on both streams together, such as ``"1G"``.
            stream: log each line of the output when it arrives, as a record of the logger ``pytest_xhyve.guest``; with
                pytest's ``-o log_cli=true``, they appear while the command runs. Otherwise, the record of the
                command's end contains the output.

        Returns:
            the exit code, standard output and standard error; bytes that are not UTF-8 are decoded as `os.fsdecode`
            does.

        Raises:
            CommandFailed: the exit code was not 0.
            CommandTimeout: the command did not end in time; the error contains its output until then.
            BootFailed: the guest died meanwhile.
            ConnectionFailed: the guest did not answer for too long, or restarted. A command that runs and prints
                nothing does not count as silence.
            ConfigurationError: an argument has a type or a value that no command can have.
            NotSupported: *tty* and *user* in a guest whose sudo may ask for a password.
            XhyveError: the guest is off, or the command printed too much.
        """
        __tracebackhide__ = True
        begin = monotonic()
        line = self._line(command, timeout=timeout, env=env, user=user, cwd=cwd)
        if tty and line.first_input:
            # The terminal would show the password in the output.
            raise NotSupported(
                f"guest {self.name}: no terminal for another user if sudo may ask for a password\n"
                "  leave tty=True or user= out, or let sudo run commands without a password (NOPASSWD in sudoers)"
            )
        data = input.encode(errors="surrogateescape") if isinstance(input, str) else input
        return self._execute(
            command,
            line,
            begin,
            check=check,
            timeout=timeout,
            input=data,
            tty=tty,
            most=parse_size(max_output),
            # Other guests, such as a template's, are not a test's.
            log=self._owner is not None,
            stream=stream,
        )

    def _line(
        self,
        command: Command,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> ShellLine:
        """The line that runs *command* after the image's login."""
        image = self.image
        return shell.shell_line(
            command, env=env, user=user, login_user=image.user, timeout=timeout, cwd=cwd, password=image.password
        )

    def _execute(
        self,
        command: Command,
        line: ShellLine,
        begin: float,
        *,
        check: bool,
        timeout: float | None,
        most: int,
        input: bytes | None = None,  # noqa: A002
        tty: bool = False,
        patience: float | None = None,
        connect: float | None = None,
        log: bool = False,
        stream: bool = False,
    ) -> Completed:
        """Run *line*, which is *command* as the caller wrote it, and report it; *begin* is when the caller asked."""
        __tracebackhide__ = True
        from pytest_xhyve.guest import commands as remote  # noqa: PLC0415

        def ended(completed: Completed) -> None:
            if log:
                transcript.log_command(self.name, completed, streamed=stream)
            self._instance.events.command_finished(self, completed, checked=check)

        try:
            completed = remote.run(
                self._power.connection(connect),
                line,
                shown=command if isinstance(command, str) else " ".join(os.fspath(word) for word in command),
                check=check,
                timeout=timeout,
                input=input,
                tty=tty,
                patience=patience,
                most=most,
                stream=stream,
            )
        except (BootFailed, ConnectionFailed, CommandFailed, CommandTimeout) as error:
            if isinstance(error, CommandFailed | CommandTimeout):
                ended(error.completed)
            if not isinstance(error, CommandFailed):
                self._faults.explain(error)
            raise
        finally:
            if self._first_command is None:
                self._first_command = monotonic() - begin
        ended(completed)
        return completed

    def put(
        self,
        local: Source,
        remote: str,
        *,
        user: str | None = None,
        owner: str | None = None,
        mode: int | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        """Copy a file, a folder or contents into the guest, as ``cp -rH`` does: if *remote* is a folder, into it.

        Missing parent folders of *remote* are created.

        Args:
            local: a path on the host; if it is a symbolic link, the link is followed. Or contents: `bytes`, or a file
                object.
            remote: a path in the guest; a leading ``~`` is the home folder.
            user: the user who writes and owns the copy; None for the user that the image logs in as. If that user can
                run sudo, ``user="root"`` writes where only root can.
            owner: the owner of the copy, ``NAME`` or ``NAME:GROUP``; None for the user who writes it. Only root can set
                an owner.
            mode: the permission bits of each file, such as ``0o600``; None for those of the source, or ``0o644`` for
                contents.
            exclude: patterns such as ``*.pyc`` or ``build/*``; what matches them is not copied out of a folder.

        Raises:
            FileNotFoundError: *local* does not exist.
            ConfigurationError: an argument is invalid.
            XhyveError: the guest cannot write the copy.
        """
        from pytest_xhyve.guest import put  # noqa: PLC0415

        options = put.PutOptions(partial(self._script, user), owner, mode, exclude)
        put.put(self._power.connection(), local, remote, options)

    def get(
        self,
        remote: str,
        local: str | os.PathLike[str],
        *,
        user: str | None = None,
        exclude: Sequence[str] = (),
        max_size: int | str = "16G",
    ) -> None:
        """Copy files or folders out of the guest, as ``cp -rH`` does: if *local* is a folder, into that folder.

        A folder is merged into one that is there; no symbolic link in it is followed. A sparse file stays sparse.
        Special files and links that lead out of the copied folder are left out: an `XhyveWarning` names them. It also
        reports files that changed or vanished during the copy.

        Args:
            remote: a path in the guest; if it is a symbolic link, the link is followed. A leading ``~`` is the home
                folder. If it is a pattern such as ``/var/log/*.log``, each match is copied into the folder *local*.
            local: a path on the host; folders above it are created.
            user: the user who reads the files; None for the user that the image logs in as.
            exclude: patterns such as ``*.pyc`` or ``build/*``; what matches them is not copied out of a folder.
            max_size: the limit of what all files may have together, such as ``"64G"``.

        Raises:
            ConfigurationError: an argument is invalid.
            XhyveError: the guest has no such file, or cannot read it; or it sent too much, or a damaged archive.
        """
        from pytest_xhyve.guest import archive, get  # noqa: PLC0415

        options = get.GetOptions(partial(self._script, user), archive.Allowance(parse_size(max_size)), exclude)
        target = Path(local).expanduser()
        found = get.find(self._power.connection(), remote, options)
        if found != [remote]:
            target.mkdir(parents=True, exist_ok=True)
        for each in found:
            got, left_out = get.get(self._power.connection(), each, target, options)
            self._instance.events.file_fetched(self, got)
            if left_out:
                # Of a pattern, the guest gives the paths.
                warnings.warn(printable(f"get {each} from guest {self.name}: {left_out}"), XhyveWarning, stacklevel=2)

    def sync(
        self,
        folder: str | os.PathLike[str],
        remote: str,
        *,
        user: str | None = None,
        exclude: Sequence[str] = (),
        gitignore: bool = False,
        delete: bool = False,
    ) -> int:
        """Bring the folder *remote* in the guest up to date with *folder*; only files that differ are sent.

        A file differs if its type, size, permission bits or modification time (in seconds) does, or if it changed on
        the host since this object sent it. Empty folders are not sent. If an image has the files already, for example
        one that a guest was saved as, only what changed since then is sent.

        Args:
            folder: a folder on the host; its content goes into *remote*.
            remote: the folder in the guest; it is created if it is missing. A leading ``~`` is the home folder.
            user: the user who writes and owns the files; None for the user that the image logs in as.
            exclude: patterns such as ``*.pyc`` or ``build``; what matches them is neither sent nor removed.
            gitignore: leave out what git ignores; *folder* must be in a repository, and the host must have git.
            delete: remove files of *remote* that *folder* does not have.

        Returns:
            the number of files that were sent.

        Raises:
            ConfigurationError: an argument is invalid.
            XhyveError: the guest cannot write the files.
        """
        from pytest_xhyve.guest import sync  # noqa: PLC0415

        if self._synced is None:
            self._synced = sync.Synced()
        options = sync.SyncOptions(partial(self._script, user), exclude, gitignore, delete, user)
        return sync.sync(self._power.connection(), Path(folder).expanduser(), remote, options, self._synced)

    def _script(self, user: str | None, script: str) -> ShellLine:
        """The line that runs the shell script *script* as *user*."""
        return self._line(["sh", "-c", script], user=user)

    def wait_for(self, command: Command, timeout: float = 60.0) -> Completed:
        """Run *command* again and again until its exit code is 0.

        A restart of the guest does not end the wait, unless the hypervisor exits then, as xhyve does; for that, use
        `expect_reboot`.

        Args:
            command: as for `run`.
            timeout: the limit in seconds.

        Returns:
            the result of the last run.

        Raises:
            WaitTimeout: the command did not succeed in time; the message contains its last output.
            BootFailed: the guest died meanwhile.
        """
        __tracebackhide__ = True
        return waits.wait_for_success(self._try, command, timeout)

    def wait_for_port(self, port: int, timeout: float = 60.0) -> None:
        """Wait until a program in the guest listens on the TCP *port*, on any of the guest's addresses.

        A restart of the guest does not end the wait. `forward` reaches the program only if it listens on the address of
        the network card, or on all addresses.

        Raises:
            WaitTimeout: no program did within *timeout* seconds.
            BootFailed: the guest died meanwhile.
        """
        __tracebackhide__ = True
        waits.wait_for_port(self._try, self.name, port, timeout)

    def wait_for_unit(self, name: str, timeout: float = 60.0) -> None:
        """Wait until the systemd unit *name* is active.

        Raises:
            XhyveError: the unit has failed; the message contains its status.
            WaitTimeout: the unit was not active within *timeout* seconds; the message contains its status.
            BootFailed: the guest died meanwhile.
        """
        __tracebackhide__ = True
        waits.wait_for_unit(self._try, name, timeout)

    def forward(self, port: int) -> tuple[str, int]:
        """Make the guest's TCP *port* reachable from the host until the guest is switched off or removed.

        If the service listens on the guest's loopback interface only, connections go to it over SSH. To any other
        service they come from outside of the guest, so that its firewall applies.

        Returns:
            the address and the port to connect to: on the host's loopback interface, or the guest's own.

        Raises:
            XhyveError: the guest is off, or the hypervisor cannot forward the port.
        """
        power = self._power
        endpoint = tunnel.forward(power.machine, power.tunnels, power.transport, self.run, port)
        return endpoint.host, endpoint.port

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

    def reboot(self) -> None:
        """Reboot the guest from inside, and wait until SSH answers again.

        The kernel's boot id (random(4)) proves that it has rebooted.

        Raises:
            BootFailed: the guest did not reboot.
        """
        restarts.reboot(self._power, self.run, self.start)

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

    def shutdown(self) -> None:
        """Shut the guest down from inside and wait until it is off; its disk stays for `start`.

        If SSH does not answer any more, the plugin presses the power button (ACPI).

        Raises:
            BootTimeout: the guest did not shut down in time.
        """
        restarts.shut_down(self._power)

    def kill(self) -> None:
        """Kill the hypervisor; the guest's disk stays for `start`.

        What programs in the guest have written and not synced is lost, as far as the guest's kernel has not written it
        to the disk. What has reached the disk stays, also if it was not flushed. `power_cut` takes that back, too.
        """
        self._power.switch_off()

    def record_writes(self, *, max_size: int | str = recorder.MAX_SIZE) -> None:
        """Record all writes and flushes of the guest's disks from now on, for `power_cut`.

        What the disks contain now counts as flushed. The record goes on after `reboot`, `kill` and `start`. A second
        call does nothing. ``@pytest.mark.xhyve(power_cuts=True)`` does the same before the test gets the guest.

        Args:
            max_size: the limit of the record of one disk, which needs as much space on the host as the guest writes. If
                a guest exceeds it, the hypervisor pauses the guest, and the next call on it raises `BootFailed`.

        Raises:
            NotSupported: only QEMU can do that.
            ConfigurationError: *max_size* is not a size.
            XhyveError: the guest is off.
        """
        limit = parse_size(max_size)
        if self._recorder.disks and self._power.is_on:
            return
        vm = self._power.machine
        self._recorder.max_size = limit
        self._begin_recording(vm)

    def power_cut(self) -> None:
        """Cut the power: the guest's disks keep exactly what was flushed. `start` boots the guest from that.

        Raises:
            XhyveError: the guest is off, or its writes are not recorded.
        """
        if not self._power.is_on:
            raise XhyveError(f"guest {self.name} is off, so its power cannot be cut; start() starts it")
        if not self._recorder.disks:
            raise recorder.not_recorded(self.name, "a power cut cannot take back any of them; kill() ends the guest")
        self._power.switch_off()
        self._machine = self._recorder.cut(self._machine)

    def mark(self, label: str) -> None:
        """Mark this moment in the record of the guest's writes: `CrashState.marks` shows it in later states.

        Mark what a program has acknowledged: a state with the mark has to contain it.

        Raises:
            XhyveError: the guest's writes are not recorded.
        """
        if not self._recorder.disks:
            raise recorder.not_recorded(self.name, "there is nothing to mark")
        self._recorder.mark(label)

    @overload
    def crash_states(
        self,
        sample: int = ...,
        *,
        seed: int = ...,
        only: Sequence[int] | None = ...,
        check: None = ...,
        boot: Literal[True] = ...,
        disk: int = ...,
        sector: int = ...,
    ) -> Iterator[Guest]: ...

    @overload
    def crash_states(
        self,
        sample: int = ...,
        *,
        seed: int = ...,
        only: Sequence[int] | None = ...,
        check: Check,
        boot: Literal[False],
        disk: int = ...,
        sector: int = ...,
        timeout: float = ...,
    ) -> tuple[CrashState, ...]: ...

    def crash_states(
        self,
        sample: int = 20,
        *,
        seed: int = 0,
        only: Sequence[int] | None = None,
        check: Check | None = None,
        boot: bool = True,
        disk: int = 0,
        sector: int = 512,
        timeout: float = 60.0,
    ) -> Iterator[Guest] | tuple[CrashState, ...]:
        """Boot the guest, or check its disk, in each of some states that a crash may leave.

        Each state is one from between two flushes of the record: what was flushed is there, and of the other writes,
        any may be lost, and any may be torn. The guest's writes must be recorded; see `record_writes`.

        With ``boot=True``, this is an iterator. It ends the guest, boots it on one state after the other, and yields it
        each time; `crash_state` describes the state. After the last one, the guest is off, and `start` boots what was
        flushed. With ``boot=False``, *check* checks all states before the call returns, and the guest runs on.

        Args:
            sample: how many states; they come in the order of time.
            seed: chooses the states. The same seed chooses the same states of the same record.
            only: the numbers of the states to bring back; None for the whole sample.
            check: a command for the host in which ``{disk}`` is the path of a disk file without a format, such as
                ``"e2fsck -fn {disk}"``. If its exit code is not 0, the state fails. Or a function that gets the path
                and the `CrashState`. If it raises an error or returns False, the state fails. The file may be changed.
            boot: whether to boot the guest on each state.
            disk: the disk, numbered from 0. To boot, the guest must have no other disk.
            sector: the bytes that the disk writes as a whole or not at all, such as 4096.
            timeout: the limit for a check that is a command, in seconds.

        Returns:
            the guest, once for each state; or the states that were checked.

        Raises:
            ConfigurationError: an argument is invalid.
            NotSupported: ``boot=True`` for a guest with more than one disk.
            XhyveError: the guest's writes are not recorded, nothing was written, or the check failed. A note names the
                state, and the call that brings it back.
        """
        from pytest_xhyve.guest import crash_states  # noqa: PLC0415

        chosen = crash_states.Sample(sample, seed, only, disk, sector)
        if boot:
            if check is not None:
                raise ConfigurationError("check= runs on disks that are not booted: add boot=False")
            return crash_states.boot_states(self, chosen)
        if check is None:
            raise ConfigurationError('boot=False needs check=, such as check="e2fsck -fn {disk}"')
        return crash_states.check_states(self, chosen, check, timeout)

    @property
    def crash_state(self) -> CrashState | None:
        """The state that `crash_states` has booted the guest on, or that failed its check; None if there is none."""
        return None if self._crash is None else self._crash[0]

    @property
    def disks(self) -> tuple[GuestDisk, ...]:
        """The guest's disks, which can be broken and mended: ``guest.disks[0]`` is ``/dev/vda``."""
        from pytest_xhyve.guest.disks import GuestDisk  # noqa: PLC0415

        return tuple(GuestDisk(number, self._block_layer, self._faults) for number in range(len(self._machine.disks)))

    def _block_layer(self) -> BlockLayer:
        block = self._power.machine.block
        if block is None:
            raise NotSupported(
                f"{self.hypervisor.name} cannot change the disks of guest {self.name} while it runs\n"
                "  use --xhyve-hypervisor=qemu"
            )
        return block

    def start(self) -> None:
        """Boot the guest again, with the same disk and identity, after `shutdown` or `kill`.

        Raises:
            BootFailed: the guest did not boot.
            ConnectionFailed: SSH answered, but the login failed.
            XhyveError: the guest is already running.
        """
        if self._power.is_on:
            raise XhyveError(f"guest {self.name} is already running")
        for phase in ("template", "restore", "banner"):
            self._phases.pop(phase, None)
        self._phases |= self._power.switch_on(self._recorded(self._boot(self._machine)), self._instance.timeouts.boot)
        self._write_login()

    def pause(self) -> None:
        """Pause the guest's CPUs until `resume`."""
        self._power.machine.pause()

    def resume(self, *, clock: Literal["kept", "now"] = "kept") -> None:
        """Resume the CPUs of a paused guest.

        Args:
            clock: ``kept`` leaves the guest's clock behind by the time of the pause, as QEMU does. ``now`` sets it to
                the host's time, as `set_clock` does.

        Raises:
            ConfigurationError: *clock* is neither.
            XhyveError: the guest is off, or its clock cannot be set.
        """
        if clock not in ("kept", "now"):
            raise ConfigurationError(f'clock={clock!r} is neither "kept" nor "now"')
        self._power.machine.resume()
        if clock == "now":
            self.set_clock(offset=0.0)

    def set_clock(
        self, *, offset: float | None = None, at: datetime | float | None = None, drift: float | None = None
    ) -> None:
        """Set the guest's clock, within a quarter of a second; the hardware's clock stays as it is.

        A program that sets the clock by NTP undoes it.

        Args:
            offset: the seconds that the clock shall be ahead of the host's; a negative number for behind.
            at: the time that the clock shall show: a `datetime.datetime`, or seconds since the epoch.
            drift: the seconds that the clock gains in each second from now on: a number from -0.1 to 0.1.

        Raises:
            ConfigurationError: an argument is invalid, or none was given.
            XhyveError: the guest is off, or its kernel does not allow that.
        """
        from pytest_xhyve.guest import clock  # noqa: PLC0415
        from pytest_xhyve.guest.root_shell import root_shell  # noqa: PLC0415

        ahead = clock.parse_time(offset, at)
        speed = None if drift is None else clock.parse_drift(drift)
        if ahead is None and speed is None:
            raise ConfigurationError("set_clock() needs offset=, at= or drift=")
        clock.change_clock(root_shell(self, self._instance.timeouts.step), ahead, speed)
        parts = [] if ahead is None else [f"{ahead:+.1f} s"]
        parts += [] if speed is None else [f"gains {speed:+g} s each second"]
        is_right = ahead is not None and abs(ahead) < _RIGHT_SECONDS and not speed
        self._faults.note("clock", None if is_right else ", ".join(parts))

    def throttle(self, *, cpu: float | None) -> None:
        """Let the guest run only for a share of the time, until the next call, or until it is switched off.

        All its CPUs and devices stand still for the rest of each twentieth of a second.

        Args:
            cpu: the share, from 0.01 to 1; None for no limit.

        Raises:
            ConfigurationError: *cpu* is not a share.
            NotSupported: the host is not a Linux one.
            XhyveError: the guest is off.
        """
        from pytest_xhyve.guest.throttle import CpuThrottle  # noqa: PLC0415

        if not self._power.is_on:
            raise XhyveError(f"guest {self.name} is off; start() starts it")
        pid = self._instance.process.pid
        assert pid is not None
        throttle = None if cpu is None else CpuThrottle(pid, cpu)
        self._end_throttle()
        self._throttle = throttle
        self._faults.note("CPU", None if cpu is None else f"runs for {cpu:.0%} of the time")

    def _end_throttle(self) -> None:
        if self._throttle is not None:
            self._throttle.end()
            self._throttle = None

    def chaos(self, *, seed: int, faults: Sequence[str] = chaos.USUAL, every: float = 1.0) -> Chaos:
        """Inject faults in the background for the duration of a ``with`` block, one after the other; heal at its end.

        The report of a failed test lists them. The same seed gives the same series of faults; at which moment of the
        guest's work each begins depends on the host's speed.

        Args:
            seed: chooses the faults.
            faults: the kinds to choose from: ``slow disk``, ``failing disk``, ``slow cpu``, ``pause``, ``wrong clock``.
            every: a fault begins each so many seconds, and ends before the next one.

        Raises:
            ConfigurationError: an argument is invalid.
        """
        series = chaos.plan(seed, faults, every)
        self._faults.note("chaos", f"seed {seed}, {', '.join(faults)}, every {every:g} s")
        return Chaos(self, series)

    def snapshot(self) -> Snapshot:
        """Save the running guest: memory, programs, disks. The guest runs on, and `restore` brings this state back.

        A snapshot takes as much space as the guest's memory. It is removed with the guest.

        Raises:
            NotSupported: only QEMU can do that.
            XhyveError: the guest is off, or no space is left.
        """
        from pytest_xhyve.guest import snapshots  # noqa: PLC0415

        snapshot, self._machine = snapshots.take_snapshot(
            self._power.machine, self._block_layer(), self._machine, self._recorder, self._folder
        )
        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        """Bring back the state of *snapshot*; the guest may be off. A snapshot can be restored any number of times.

        The clock is set to the present, and the kernel gets new random numbers. The plugin connects again: take
        `ssh` anew. Programs that talked to the network find their connections broken.

        Raises:
            XhyveError: the snapshot is one of another guest, or was removed, or cannot be restored.
        """
        from pytest_xhyve.guest import clock, snapshots  # noqa: PLC0415
        from pytest_xhyve.guest.root_shell import root_shell  # noqa: PLC0415

        # First, as a shared guest may have to be reset before.
        power = self._power
        snapshots.check(snapshot, self.name, self._folder)
        power.switch_off()
        restored = snapshots.start_from_snapshot(self._instance, snapshot)
        self._replace_machine(restored.machine, restored.start, self._boot)
        if not restored.clock_is_set:
            clock.change_clock(root_shell(self, self._instance.timeouts.step), 0.0, None, seed=True)

    def ssh_config(self) -> str:
        """A Host block for OpenSSH's configuration (ssh_config(5)), named like the guest.

        Pass it to ``ssh -F``, Ansible, testinfra or fabric. With it, OpenSSH checks the guest's host key.

        Raises:
            XhyveError: the guest is off, or has no address yet.
        """
        return ssh_config.host_block(self.name, self._ssh_endpoint(), self.image, self._folder)

    def ssh_command(self) -> tuple[str, ...]:
        """The command line that logs in to the guest with OpenSSH; it works until the guest is removed.

        Raises:
            XhyveError: the guest is off, or has no address yet.
        """
        return ssh_config.login_command(self.name, self.ssh_config(), self._folder)

    @property
    def _folder(self) -> Path:
        return self.console.path.parent

    def remove(self) -> None:
        """Remove the guest: end its machine, delete its disk, free its slot. A second call does nothing."""
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
        self._power.check_alive()
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

    # The members below are for the rooms of this package that own guests.

    @property
    def _power(self) -> Power:
        """The guest's switch and connection. Each method above gets them here, so that `_before_use` runs first."""
        if os.getpid() != self._process:
            raise XhyveError(
                f"guest {self.name} belongs to process {self._process}, which forked this one\n"
                "  two processes cannot share a connection: call guest.ssh_command() before the fork, and run it here"
            )
        if self._before_use is not None:
            # For example, the reset for a test that does not name the guest's fixture.
            before_use, self._before_use = self._before_use, None
            before_use()
        return self._own_power

    def _write_login(self) -> None:
        """Write the files by which `pytest-xhyve shell` logs in; without them, only that does not work."""
        endpoint = self._own_power.machine.find_endpoint(SSH_PORT)
        with suppress(OSError):
            if endpoint is not None:
                block = ssh_config.host_block(self.name, endpoint, self.image, self._folder)
                ssh_config.login_command(self.name, block, self._folder)

    def _switch_off(self) -> None:
        """Like `kill`, but without `_before_use`: for an owner that does not need the guest's state any more."""
        self._end_throttle()
        self._own_power.switch_off()

    def _boot_or_restore(self, start: Start[Any] | None = None) -> None:
        """Start the guest's machine; if that fails, switch it off.

        Args:
            start: restores the guest; None boots it.

        Raises:
            XhyveError: the guest does not boot, or cannot be restored.
        """
        timeouts = self._instance.timeouts
        if start is not None:
            self._phases.pop("boot", None)
        try:
            self._phases |= self._own_power.switch_on(
                self._recorded(start or self._boot(self._machine)),
                timeouts.boot if start is None else timeouts.restore,
            )
        except XhyveError as error:
            if start is None:
                self._instance.events.boot_failed(self, error)
            self._switch_off()
            raise
        except BaseException:
            self._switch_off()
            raise
        self._write_login()

    def _replace_machine(self, machine: Machine, start: Start[Any], boot: BootMachine) -> None:
        """Switch the guest off, and restore another *machine* in its place.

        Args:
            machine: the new machine, with the same identity.
            start: restores the machine now.
            boot: boots the machine after a power-off.
        """
        self._switch_off()
        self._recorder.discard()
        self._machine, self._boot = machine, boot
        self._boot_or_restore(start)

    def _recorded(self, start: Start[Any]) -> Start[Any]:
        """*start*, which also records the guest's writes if that was requested."""
        # No fault outlives the hypervisor.
        self._faults.end()
        self._end_throttle()
        return start if self._recorder.max_size is None else start.then(self._begin_recording)

    def _begin_recording(self, vm: VirtualMachine) -> None:
        block = vm.block
        if block is None:
            raise NotSupported(
                f"{self.hypervisor.name} cannot record what guest {self.name} writes; use --xhyve-hypervisor=qemu"
            )
        self._machine = self._recorder.begin(block, self._machine)

    def _try(self, command: Command, timeout: float) -> Completed:
        """Run *command* once for a wait, which tries again if the guest does not answer."""
        __tracebackhide__ = True
        return self._execute(
            command,
            self._line(command, timeout=timeout),
            monotonic(),
            check=False,
            timeout=timeout,
            most=parse_size(_MAX_OUTPUT),
            patience=_PATIENCE_SECONDS,
            connect=timeout,
        )

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

    def _ssh_endpoint(self) -> Endpoint:
        endpoint = self._power.machine.find_endpoint(SSH_PORT)
        if endpoint is None:
            raise XhyveError(f"guest {self.name} has no address yet")
        return endpoint
