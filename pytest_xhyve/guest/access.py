"""How a test gets into a guest: commands, files, and waiting for what happens there."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_xhyve.guest import shell, transcript, waits
from pytest_xhyve.guest.core import GuestCore
from pytest_xhyve.guest.shell import Command, ShellLine
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import (
    BootFailed,
    CommandFailed,
    CommandTimeout,
    ConnectionFailed,
    NotSupported,
    XhyveWarning,
)
from pytest_xhyve.model.text import printable
from pytest_xhyve.model.values import parse_size

if TYPE_CHECKING:
    from pytest_xhyve.guest.put import Source
    from pytest_xhyve.guest.sync import Synced
    from pytest_xhyve.model.completed import Completed

# For how long one try of a wait lets the guest be silent, since it may have restarted.
_PATIENCE_SECONDS = 10.0
_MAX_OUTPUT = "256M"


class GuestAccess(GuestCore):
    """The part of `pytest_xhyve.Guest` that runs commands, copies files, and waits."""

    _first_command: float | None = None
    _synced: Synced | None = None

    @property
    def first_command(self) -> float | None:
        """The duration of the first `run`, from the call to the command's output, in seconds; None before it."""
        return self._first_command

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
            log=self._is_owned,
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
            self._report_command(completed, checked=check)

        try:
            completed = remote.run(
                self._power.login.connection(timeout if connect is None else connect),
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

        Missing parent folders of *remote* are created. Files that another process removes from the folder during the
        copy are left out.

        Args:
            local: a path on the host; if it is a symbolic link, the link is followed. The text ``"folder/."`` stands
                for what is in the folder, without the folder itself. Or contents: `bytes`, or a file object.
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
            BootFailed: the guest died meanwhile.
            ConnectionFailed: the guest did not answer for too long, or restarted.
            XhyveError: the guest cannot write the copy, or the copy stood still.
        """
        from pytest_xhyve.guest import put  # noqa: PLC0415

        options = put.PutOptions(partial(self._script, user), owner, mode, exclude)
        put.put(self._power.login.connection(), local, remote, options)

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
            BootFailed: the guest died meanwhile.
            ConnectionFailed: the guest did not answer for too long, or restarted.
            XhyveError: the guest has no such file, or cannot read it; or it sent too much, or a damaged
                archive, or nothing for too long.
            OSError: the copy cannot be written.
        """
        from pytest_xhyve.guest import archive, get  # noqa: PLC0415

        options = get.GetOptions(partial(self._script, user), archive.Allowance(parse_size(max_size)), exclude)
        target = Path(local).expanduser()
        found = get.find(self._power.login.connection(), remote, options)
        if found != [remote]:
            target.mkdir(parents=True, exist_ok=True)
        for each in found:
            got, left_out = get.get(self._power.login.connection(), each, target, options)
            self._report_fetched(got)
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
            BootFailed: the guest died meanwhile.
            ConnectionFailed: the guest did not answer for too long, or restarted.
            XhyveError: the guest cannot write the files, or the copy stood still.
        """
        from pytest_xhyve.guest import sync  # noqa: PLC0415

        if self._synced is None:
            self._synced = sync.Synced()
        options = sync.SyncOptions(partial(self._script, user), exclude, gitignore, delete, user)
        return sync.sync(self._power.login.connection(), Path(folder).expanduser(), remote, options, self._synced)

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

    @property
    def _is_owned(self) -> bool:
        """Whether the guest is a test's; others, such as a template's, are not."""
        raise NotImplementedError

    def _report_command(self, completed: Completed, *, checked: bool) -> None:
        """Report to the listeners that a command has ended; they get the whole guest."""
        raise NotImplementedError

    def _report_fetched(self, local: Path) -> None:
        """Report to the listeners that a file was copied to *local*; they get the whole guest."""
        raise NotImplementedError
