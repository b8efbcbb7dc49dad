"""The plugin's side of the guardian: start it, and start guests in it.

`pytest_xhyve.host.guardian_process` describes what the guardian guarantees.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from pytest_xhyve.host import guardian_process
from pytest_xhyve.host.bounded_log import read_ends
from pytest_xhyve.host.channel import Channel
from pytest_xhyve.host.exhaustion import cannot_start, explain_exhaustion, is_readable, raise_descriptor_limit
from pytest_xhyve.host.guest_folder import OUTPUT
from pytest_xhyve.host.processes import process_descriptor
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import Cancelled, HypervisorExited, HypervisorNotFound, XhyveError
from pytest_xhyve.model.options import PASSWORD_VARIABLE

INTERRUPTED = "interrupted"
"""The folder among the artifacts for the guests of runs that were killed."""

_END_SECONDS = 10.0
_KILL_SECONDS = 5.0
_ANSWER_SECONDS = 60.0
_STOPPED_SECONDS = 1.0
# For a guardian whose kept guests have all ended.
_LINGER_SECONDS = 0.2
# A guest can make its hypervisor print without end.
_SHOWN_BYTES = 1 << 14


class GuardedProcess:
    """A guest that the guardian owns: a folder, a slot, and, while the guest runs, a hypervisor process."""

    def __init__(self, channel: Channel, folder: Path, about: Mapping[str, Any], guardian: int) -> None:
        self._channel = channel
        self._guardian = guardian
        self._about = dict(about)
        self.folder = folder
        self.pid: int | None = None
        self._exit_status: int | None = None
        self._is_cancelled = False
        self.is_kept = False
        self._lock = threading.RLock()

    def start(
        self,
        argv: Sequence[str],
        record: Mapping[str, Any],
        fds: Mapping[int, int],
        *,
        console: int | None = None,
        kill_command: Sequence[str] = (),
    ) -> None:
        """Start a hypervisor in the guest's folder.

        Args:
            argv: the hypervisor's command line.
            record: data about the hypervisor; it is added to the guest's record, which other processes read.
            fds: file descriptors for the hypervisor: the number there, and the number here.
            console: descriptor of the host's end of the serial port, if the hypervisor does not write a log: the
                guardian copies the output of the port to ``console.log``.
            kill_command: a command that sends signals like kill(1), if the program runs as another user.

        Raises:
            HypervisorNotFound: the program cannot be executed.
            OSError: the log or the record cannot be written.
            HypervisorExited: the guardian is dead.
            Cancelled: `cancel` was called before.
        """
        with self._lock:
            if self._is_cancelled:
                raise Cancelled(f"{self.folder.name} is not needed any more")
            self.pid = self._exit_status = None
            message = {
                "argv": list(argv),
                "record": self._about | dict(record),
                "fds": list(fds),
                "console": console is not None,
                "kill_command": list(kill_command),
            }
            self._send(message, [*fds.values(), *([] if console is None else [console])])
            answer = self._receive()
            while "exit" in answer:
                # This is the exit of the hypervisor before; nothing has waited for it.
                answer = self._receive()
            if answer.get("file") not in (None, argv[0]):
                # The error is not about the program, but about its log or its record.
                raise OSError(answer["errno"], os.strerror(answer["errno"]), answer["file"])
            if "error" in answer:
                _raise_exhaustion(answer)
                if answer["errno"] == errno.EAGAIN:
                    raise cannot_start(argv[0])
                raise HypervisorNotFound(f"cannot start {argv[0]}: {answer['error']}")
            self.pid = answer["pid"]

    def cancel(self) -> None:
        """Kill the hypervisor and refuse later starts. Another thread that waits for the guest then stops waiting."""
        with self._lock:
            self._is_cancelled = True
            if self.pid is not None and self._channel.socket.fileno() >= 0:
                with contextlib.suppress(HypervisorExited):
                    self.send_signal(signal.SIGKILL)

    def report_pid(self, pid: int) -> None:
        """Write *pid* into the guest's record as the hypervisor's process id, if the started process is sudo."""
        with self._lock:
            self.pid = pid
            self._send({"pid": pid})

    def keep(self, record: Mapping[str, Any], *, held: bool = False, run_process: int | None = None) -> None:
        """Keep the guest, and with it the guardian, until the hypervisor exits; `close` does not end it any more.

        Args:
            record: added to the guest's record, which other processes read.
            held: whether the guest still ends when this process ends.
            run_process: the id of the process with which the guest ends; None for no such process.

        Raises:
            ProcessLookupError: *run_process* has ended.
            XhyveError: the record cannot be written.
            HypervisorExited: the hypervisor has exited, or the guardian is dead.
        """
        with self._lock:
            with process_descriptor(run_process) as fds:
                self._send({"keep": dict(record), "held": held, "run_process": run_process}, fds)
            answer = self._receive()
            while "exit" in answer:
                self._exit_status = answer["exit"]
                answer = self._receive()
            if "error" in answer:
                raise XhyveError(f"cannot record that the guest is kept: {answer['error']}")
            if not answer["kept"]:
                raise HypervisorExited("its hypervisor has exited")
            self.is_kept = True

    def send_signal(self, number: signal.Signals) -> None:
        """Send the signal *number* to the hypervisor; if it has exited, do nothing."""
        with self._lock:
            self._send({"signal": int(number)})

    def poll(self) -> int | None:
        """The hypervisor's exit code as in `subprocess`, or None while it runs."""
        return self.wait(0)

    def wait(self, timeout: float) -> int | None:
        """Wait up to *timeout* seconds until the hypervisor exits; return its exit code, or None."""
        end = monotonic() + timeout
        with self._lock:
            while self._exit_status is None:
                if not _has_message(self._channel, max(0.0, end - monotonic()), self._guardian):
                    return None
                message, _ = self._channel.receive()
                # If the guardian is dead, the hypervisor died with it.
                self._exit_status = -signal.SIGKILL if message is None else message.get("exit")
            return self._exit_status

    def kill(self, name: str) -> None:
        """Kill the hypervisor and wait until it is dead; if the guest is kept, do nothing.

        Args:
            name: the hypervisor's name, for messages.

        Raises:
            XhyveError: the hypervisor did not end in time.
        """
        if self.is_kept or self.pid is None or self.poll() is not None:
            return
        self.send_signal(signal.SIGKILL)
        if self.wait(_KILL_SECONDS) is None:
            raise XhyveError(
                f"{name} (process {self.pid}) did not end within {_KILL_SECONDS:g} s after SIGKILL; the host is "
                "overloaded, or its disk does not respond"
            )

    def output(self) -> str:
        """The hypervisor's standard output and standard error, without the middle if they are long."""
        try:
            return read_ends(self.folder / OUTPUT, _SHOWN_BYTES, _SHOWN_BYTES).decode(errors="replace").strip()
        except FileNotFoundError:
            return ""

    def close(self) -> None:
        """Let the guardian kill the hypervisor, remove the folder and free the slot, and wait until it has.

        If the guest is kept, only the connection to the guardian is closed.
        """
        with self._lock:
            if self._channel.socket.fileno() < 0:
                return
            with contextlib.suppress(OSError):
                # A run that was killed cannot send this.
                self._channel.send({"release": True})
                self._channel.socket.shutdown(socket.SHUT_WR)
                self._channel.socket.settimeout(_END_SECONDS)
                _has_message(self._channel, _END_SECONDS, self._guardian)
                while self._channel.receive()[0] is not None:
                    pass
            self._channel.socket.close()
            if self.is_kept:
                return
            # A folder is left only if the guardian was killed.
            shutil.rmtree(self.folder, ignore_errors=True)

    def _send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        try:
            self._channel.send(message, fds)
        except OSError as error:
            raise guardian_lost() from error

    def _receive(self) -> dict[str, Any]:
        if not _has_message(self._channel, _ANSWER_SECONDS, self._guardian):
            raise HypervisorExited(
                f"the guardian process of this run ({self._guardian}) did not answer for {_ANSWER_SECONDS:g} s\n"
                "  the host is overloaded, or its disk does not respond"
            )
        message, _ = self._channel.receive()
        if message is None:
            raise guardian_lost()
        return message


class Guardian:
    """The guardian process of one run.

    Args:
        run_folder: the run's folder; the guardian removes it when the run ends, also after a crash.
        lock_fd: the descriptor of the run's lock, which the guardian holds as long as it lives.
        salvage: a folder for the consoles of the guests if the run is killed; None to save nothing.
    """

    def __init__(self, run_folder: Path, lock_fd: int, salvage: Path | None = None) -> None:
        raise_descriptor_limit()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-IS",
                    guardian_process.__file__,
                    str(theirs.fileno()),
                    str(run_folder),
                    *([] if salvage is None else [str(salvage)]),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), lock_fd],
                cwd="/",
                # The hypervisors inherit it, and need no password.
                env={name: value for name, value in os.environ.items() if name != PASSWORD_VARIABLE},
                start_new_session=True,
            )
        self._channel = Channel(ours)
        self._lock = threading.Lock()
        self._keeps = False

    @property
    def pid(self) -> int:
        """The guardian's process id."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the guardian still runs."""
        return self._process.poll() is None

    @contextmanager
    def guard(self, folder: Path, held: Sequence[int], about: Mapping[str, Any]) -> Iterator[GuardedProcess]:
        """Let the guardian own a guest for the duration of the block.

        Args:
            folder: the guest's folder; created here, removed at the end.
            held: descriptors of locks that last until the hypervisor has exited; they are closed in this process.
            about: data about the guest that other processes read (`pytest-xhyve ps`).

        Raises:
            XhyveError: the folder exists already.
            OSError: the folder cannot be created.
        """
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            for fd in held:
                os.close(fd)
            raise
        try:
            # This is outside of the block that removes the folder: an existing folder belongs to another guest.
            folder.mkdir(mode=0o700)
        except OSError as error:
            for fd in (*held, ours.detach(), theirs.detach()):
                os.close(fd)
            if isinstance(error, FileExistsError):
                raise XhyveError(f"this run already has a guest named {folder.name!r}") from error
            raise
        process = GuardedProcess(Channel(ours), folder, about, self.pid)
        try:
            with theirs:
                try:
                    self._hand_over(folder, [theirs.fileno(), *held])
                finally:
                    for fd in held:
                        os.close(fd)
            self._await_folder_owner(process)
            yield process
        finally:
            self._keeps |= process.is_kept
            process.close()

    def _await_folder_owner(self, process: GuardedProcess) -> None:
        """Wait until the guardian owns the guest's folder.

        Raises:
            OSError: the guardian has no descriptors left.
            HypervisorExited: the guardian is dead.
        """
        try:
            answer = process._receive()
        except HypervisorExited:
            if not self.is_alive():
                raise
            answer = {"errno": errno.EMFILE}
        _raise_exhaustion(answer)

    def _hand_over(self, folder: Path, fds: Sequence[int]) -> None:
        try:
            with self._lock:
                self._channel.send({"folder": str(folder)}, fds)
        except OSError as error:
            raise guardian_lost() from error

    def close(self) -> None:
        """Let the guardian remove all that is left, and wait until it exits; a guardian with a kept guest stays."""
        has_let_go = False
        with contextlib.suppress(OSError):
            # shutdown works even if a child that the test forked still has this end open.
            self._channel.socket.shutdown(socket.SHUT_WR)
            self._channel.socket.settimeout(_END_SECONDS)
            # The guardian closes its end when it has removed all guests but the kept ones.
            _has_message(self._channel, _END_SECONDS, self.pid)
            has_let_go = self._channel.receive()[0] is None
        self._channel.socket.close()
        try:
            self._process.wait(_LINGER_SECONDS if self._keeps and has_let_go else _END_SECONDS)
        except subprocess.TimeoutExpired:
            if self._keeps and has_let_go:
                # The guardian stays, so Popen must not warn that it still runs.
                self._process.returncode = 0
                return
            self._process.kill()
            # A process that waits for its disk does not die.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_KILL_SECONDS)


def _has_message(channel: Channel, timeout: float, guardian: int) -> bool:
    """Whether the process *guardian* sends a message, or ends, within *timeout* seconds.

    A guardian that someone has stopped (SIGSTOP) cannot answer or end a guest, so it is continued.
    """
    if channel.pending() or is_readable(channel.socket, min(timeout, _STOPPED_SECONDS)):
        return True
    if timeout <= _STOPPED_SECONDS:
        return False
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(guardian)
        if process.status() == psutil.STATUS_STOPPED:
            process.resume()
    return is_readable(channel.socket, timeout - _STOPPED_SECONDS)


def _raise_exhaustion(answer: Mapping[str, Any]) -> None:
    """Raise the error in the guardian's *answer* as an `OSError` if this host has run out of something."""
    if answer.get("errno") is not None:
        error = OSError(answer["errno"], os.strerror(answer["errno"]))
        if explain_exhaustion(error) is not None:
            raise error


def guardian_lost() -> HypervisorExited:
    """The error for what needs a guardian that is dead."""
    return HypervisorExited(
        "the guardian process of this run was killed, so its guests died, too\n"
        "  the next guest gets a new guardian; if you did not kill it, look for the out-of-memory killer in the "
        "kernel's log"
    )
