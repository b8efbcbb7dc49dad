"""Our side of the guardian: start it, and put guests in its care.

See `pytest_xhyve.host.guardian_process` for what it promises.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_xhyve.host import guardian_process
from pytest_xhyve.host.guardian_process import Channel
from pytest_xhyve.model.errors import Cancelled, HypervisorExited, HypervisorNotFound, XhyveError

_END_SECONDS = 10.0
_KILL_SECONDS = 5.0
# For one that keeps no guest any more, though it did.
_LINGER_SECONDS = 0.2


class GuardedProcess:
    """A guest in the guardian's care: a folder, a held slot, and at times a running hypervisor."""

    def __init__(self, channel: Channel, folder: Path, about: Mapping[str, Any]) -> None:
        self._channel = channel
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
        """Start a hypervisor in the ward's folder.

        Args:
            argv: its command line.
            record: what the hypervisor adds to what other processes may know of the guest.
            fds: descriptors for it: the number that it sees, and ours.
            console: a descriptor of the host's end of its serial port, where it does not keep a log itself: the
                guardian copies all that comes from it to ``console.log``.
            kill_command: a command that sends signals as kill(1) does, where the program is not this user's.

        Raises:
            HypervisorNotFound: the program cannot be executed.
            OSError: its log or record cannot be written.
            HypervisorExited: the guardian is gone.
            Cancelled: the process is.
        """
        with self._lock:
            if self._is_cancelled:
                raise Cancelled(f"{self.folder.name} is not wanted any more")
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
                # Of the one before, whose end nobody has waited for.
                answer = self._receive()
            if answer.get("file") not in (None, argv[0]):
                # Not the program: what is written of it.
                raise OSError(answer["errno"], os.strerror(answer["errno"]), answer["file"])
            if "error" in answer:
                raise HypervisorNotFound(f"cannot start {argv[0]}: {answer['error']}")
            self.pid = answer["pid"]

    def cancel(self) -> None:
        """End the hypervisor from another thread, so that whoever waits for the guest soon does not; start no more."""
        with self._lock:
            self._is_cancelled = True
            if self.pid is not None and self._channel.socket.fileno() >= 0:
                with contextlib.suppress(HypervisorExited):
                    self.send_signal(signal.SIGKILL)

    def report_pid(self, pid: int) -> None:
        """Let other processes know the hypervisor by *pid*, where what was started is sudo."""
        with self._lock:
            self.pid = pid
            self._send({"pid": pid})

    def keep(self, record: Mapping[str, Any], *, held: bool = False) -> None:
        """Let the guest live on when the process is closed, and the guardian with it, until the hypervisor ends.

        From here on nothing here ends it.

        Args:
            record: added to what other processes may know of the guest.
            held: whether it is to end with this process all the same.

        Raises:
            XhyveError: the record cannot be written.
            HypervisorExited: the hypervisor is gone, or the guardian.
        """
        with self._lock:
            self._send({"keep": dict(record), "held": held})
            answer = self._receive()
            while "exit" in answer:
                self._exit_status = answer["exit"]
                answer = self._receive()
            if "error" in answer:
                raise XhyveError(f"nobody could be told that it is: {answer['error']}")
            if not answer["kept"]:
                raise HypervisorExited("its hypervisor has ended")
            self.is_kept = True

    def send_signal(self, number: signal.Signals) -> None:
        """Send the hypervisor a signal; nothing happens when it has ended."""
        with self._lock:
            self._send({"signal": int(number)})

    def poll(self) -> int | None:
        """The hypervisor's exit status as `subprocess` has it, or None while it runs."""
        return self.wait(0)

    def wait(self, timeout: float) -> int | None:
        """Wait up to *timeout* seconds for the hypervisor to end; its exit status, or None."""
        end = time.monotonic() + timeout
        with self._lock:
            while self._exit_status is None:
                left = max(0.0, end - time.monotonic())
                if not self._channel.pending() and not select.select([self._channel.socket], [], [], left)[0]:
                    return None
                message, _ = self._channel.receive()
                # Without a guardian there is no hypervisor: it died with it.
                self._exit_status = -signal.SIGKILL if message is None else message.get("exit")
            return self._exit_status

    def kill(self, name: str) -> None:
        """End the hypervisor, called *name* in messages, at once, and return when it is gone; not one that is kept.

        Raises:
            XhyveError: it did not end.
        """
        if self.is_kept or self.pid is None or self.poll() is not None:
            return
        self.send_signal(signal.SIGKILL)
        if self.wait(_KILL_SECONDS) is None:
            raise XhyveError(
                f"{name} (process {self.pid}) did not end within {_KILL_SECONDS:g} s of being killed; the host is "
                "overloaded, or its disk does not answer"
            )

    def output(self) -> str:
        """What the hypervisor itself has said, on its standard output and error."""
        try:
            return (self.folder / "hypervisor.log").read_text(errors="replace").strip()
        except FileNotFoundError:
            return ""

    def close(self) -> None:
        """Have the hypervisor killed, the folder removed and the slot freed, and wait until it is done.

        Of a guest that is kept, only this process's part is given up.
        """
        with self._lock:
            if self._channel.socket.fileno() < 0:
                return
            with contextlib.suppress(OSError):
                self._channel.socket.shutdown(socket.SHUT_WR)
                self._channel.socket.settimeout(_END_SECONDS)
                while self._channel.receive()[0] is not None:
                    pass
            self._channel.socket.close()
            if self.is_kept:
                return
            # Only where the guardian was killed is there something left to remove.
            shutil.rmtree(self.folder, ignore_errors=True)

    def _send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        try:
            self._channel.send(message, fds)
        except OSError as error:
            raise _guardian_lost() from error

    def _receive(self) -> dict[str, Any]:
        message, _ = self._channel.receive()
        if message is None:
            raise _guardian_lost()
        return message


class Guardian:
    """The guardian process of one run.

    Args:
        run_folder: removed, with all in it, when the run ends in whatever way.
        lock_fd: the descriptor of the run's lock, held as long as the guardian lives.
    """

    def __init__(self, run_folder: Path, lock_fd: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-IS",
                    guardian_process.__file__,
                    str(theirs.fileno()),
                    str(run_folder),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), lock_fd],
                cwd="/",
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
        """Whether the process still runs."""
        return self._process.poll() is None

    @contextmanager
    def guard(self, folder: Path, held: Sequence[int], about: Mapping[str, Any]) -> Iterator[GuardedProcess]:
        """Put a guest in the guardian's care for the time of the block.

        Args:
            folder: the guest's; made here, removed at the end.
            held: descriptors whose locks last until the hypervisor is gone; closed here.
            about: what other processes may know of the guest (`pytest-xhyve ps`).

        Raises:
            XhyveError: the folder is there already.
            OSError: it cannot be made.
        """
        ours, theirs = socket.socketpair()
        try:
            # Before anything removes it: it may be another guest's.
            folder.mkdir(mode=0o700)
        except OSError as error:
            for fd in (*held, ours.detach(), theirs.detach()):
                os.close(fd)
            if isinstance(error, FileExistsError):
                raise XhyveError(f"a guest of this run is named {folder.name!r} already") from error
            raise
        process = GuardedProcess(Channel(ours), folder, about)
        try:
            with theirs:
                try:
                    self._hand_over(folder, [theirs.fileno(), *held])
                finally:
                    for fd in held:
                        os.close(fd)
            process._receive()
            yield process
        finally:
            self._keeps |= process.is_kept
            process.close()

    def _hand_over(self, folder: Path, fds: Sequence[int]) -> None:
        try:
            with self._lock:
                self._channel.send({"folder": str(folder)}, fds)
        except OSError as error:
            raise _guardian_lost() from error

    def close(self) -> None:
        """Let the guardian take away what is left, and wait for its end; one that keeps a guest lives on."""
        has_let_go = False
        with contextlib.suppress(OSError):
            # Also when a child that the test forked still holds this end.
            self._channel.socket.shutdown(socket.SHUT_WR)
            self._channel.socket.settimeout(_END_SECONDS)
            # It closes its own when it has taken away all that it does not keep.
            has_let_go = self._channel.receive()[0] is None
        self._channel.socket.close()
        try:
            self._process.wait(_LINGER_SECONDS if self._keeps and has_let_go else _END_SECONDS)
        except subprocess.TimeoutExpired:
            if self._keeps and has_let_go:
                # Nobody waits for it any more, and Popen is not to complain of that.
                self._process.returncode = 0
                return
            self._process.kill()
            self._process.wait()


def _guardian_lost() -> HypervisorExited:
    return HypervisorExited(
        "the guardian process of this run was killed, and its guests with it\n"
        "  the next guest gets a new guardian; if nobody killed it, look for the kernel's out-of-memory killer"
    )
