"""A guest in the guardian: start its hypervisor, send it signals, and remove it.

This module imports only the standard library, as the guardian's script is made of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_xhyve.host.bounded_log import HEAD_BYTES, TAIL_BYTES, read_ends
from pytest_xhyve.host.channel import Channel
from pytest_xhyve.host.guest_folder import CONSOLE, OUTPUT, RECORD, remove_tree, write_record

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_MOST_DESCRIPTORS = 1024
_SIGNAL_SECONDS = 5.0
_LOOK_SECONDS = 0.005


class OwnedGuest:
    """One guest that the guardian owns.

    Args:
        channel: to the plugin.
        folder: the guest's folder.
        held: descriptors of locks that last until the hypervisor has exited.
        selector: the guardian's, which waits for the output of the console.
    """

    def __init__(self, channel: Channel, folder: Path, held: Sequence[int], selector: selectors.BaseSelector) -> None:
        self.channel = channel
        self.folder = folder
        self.held = list(held)
        self.process: subprocess.Popen[bytes] | None = None
        self.is_kept = False
        self.is_held = False
        self.is_released = False
        self.run_process: int | None = None
        """The process with which a guest of a whole run ends; None for all other guests, and once it is watched."""
        self._selector = selector
        self._console: socket.socket | None = None
        self._kill_command: list[str] = []
        self._record: dict[str, Any] = {}

    def spawn(self, message: Mapping[str, Any], given: Mapping[int, int]) -> None:
        """Start the hypervisor; *given* maps the descriptor numbers in it to those in this process."""
        argv, record = message["argv"], message["record"]
        parent = os.getpid()
        # Above the numbers that the hypervisor has them under; a low limit of descriptors leaves few above.
        above = max(given, default=2) + 1
        high: dict[int, int] = {}
        held: list[int] = []

        def prepare() -> None:
            if sys.platform == "linux":
                _die_with(parent)
            for number, fd in high.items():
                os.dup2(fd, number)
            _limit_descriptors()

        log = self.folder / OUTPUT
        self._kill()
        self._kill_command = message["kill_command"]
        try:
            _reserve(given)
            for number, fd in given.items():
                high[number] = _duplicate(fd, above)
            held.extend(_duplicate(fd, above) for fd in self.held)
            with log.open("ab") as stderr:
                self.process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    cwd=self.folder,
                    # A new session: on Ctrl-C, the terminal must not send SIGINT to the hypervisor, too.
                    start_new_session=True,
                    # preexec_fn is safe here because this process has one thread.
                    preexec_fn=prepare,  # noqa: PLW1509
                    pass_fds=[*high, *held],
                )
            pid = self.process.pid
            self._record = {**record, "pid": pid, "started": time.time()}
            write_record(self.folder / RECORD, self._record)
        except OSError as error:
            # For example, the host's disk is full. The run's other guests go on.
            self._kill()
            self.refuse(error)
            return
        finally:
            for fd in [*high.values(), *held]:
                os.close(fd)
        self.channel.send({"pid": pid})

    def refuse(self, error: Exception) -> None:
        """Answer that a request failed, and why."""
        number, file = (error.errno, error.filename) if isinstance(error, OSError) else (None, None)
        # pytest may have died meanwhile.
        with contextlib.suppress(OSError):
            self.channel.send({"error": str(error), "errno": number, "file": None if file is None else str(file)})

    def send_signal(self, number: int) -> None:
        """Send a signal to the hypervisor, with the kill command if there is one."""
        if self.process is None or self.process.poll() is not None:
            return
        if self._kill_command:
            # This user may kill sudo itself, but then the program under it would go on.
            self._signal_children_of_sudo(number)
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    def _signal_children_of_sudo(self, number: int) -> None:
        """Send a signal to the processes that sudo started; for SIGKILL, repeat until they and sudo have ended."""
        assert self.process is not None
        end = time.monotonic() + _SIGNAL_SECONDS
        while True:
            pids = _descendants(self.process.pid)
            if number == signal.SIGKILL:
                # sudo may not have started the program yet.
                pids.append(self.process.pid)
            if pids:
                _run([*self._kill_command, f"-{number}", *map(str, pids)])
            is_over = self.process.poll() is not None and not any(map(exists, pids))
            if number != signal.SIGKILL or is_over or time.monotonic() > end:
                return
            time.sleep(_LOOK_SECONDS)

    def report_pid(self, pid: int) -> None:
        """Write *pid* into the record: the started process is sudo, and *pid* is the hypervisor under it."""
        self._record["pid"] = pid
        with contextlib.suppress(OSError):
            write_record(self.folder / RECORD, self._record)

    def keep(self, record: Mapping[str, Any], *, held: bool, run_process: int | None) -> None:
        """Keep the guest after pytest closes its end, and record that.

        If *held*, keep it only until pytest ends; with *run_process*, only until the process with this id ends.

        If the record cannot be written, for example on a full disk, the guest is not kept: no other process would
        find it, and another run would remove its folder.
        """
        self._record |= record
        answer: dict[str, Any] = {}
        try:
            write_record(self.folder / RECORD, self._record)
            self.is_kept = self.process is not None
            self.is_held = held
            self.run_process = run_process
        except OSError as error:
            answer["error"] = str(error)
        # pytest may have died meanwhile.
        with contextlib.suppress(OSError):
            self.channel.send({"kept": self.is_kept, **answer})

    def has_ended(self) -> bool:
        """Whether the hypervisor has exited."""
        return self.process is None or self.process.poll() is not None

    def listen(self, console: socket.socket) -> None:
        """From now on, copy the output of *console*, the host's end of the serial port, to the log."""
        self._console = console
        self._selector.register(console, selectors.EVENT_READ, self._drain)

    def _drain(self) -> None:
        while self._console is not None:
            try:
                data = self._console.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._hang_up()
                return
            # If the host's disk is full, console output is lost, but the guest goes on.
            with contextlib.suppress(OSError), (self.folder / CONSOLE).open("ab", buffering=0) as log:
                log.write(data)

    def _hang_up(self) -> None:
        if self._console is not None:
            self._selector.unregister(self._console)
            self._console.close()
            self._console = None

    def report_exit(self) -> None:
        """Report the exit code to pytest if the hypervisor has exited."""
        if self.process is None or self.process.poll() is None:
            return
        status, self.process = self.process.returncode, None
        self._drain()
        with contextlib.suppress(OSError):
            self.channel.send({"exit": status})

    def salvage(self, folder: Path) -> None:
        """Save what there is of a guest whose owner died: its console, and what its hypervisor printed."""
        self._drain()
        # The disk may be full; the guest is removed all the same.
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True)
            for name in (CONSOLE, OUTPUT, RECORD):
                if (self.folder / name).exists():
                    # The middle of a long one is not there any more.
                    (folder / name).write_bytes(read_ends(self.folder / name, HEAD_BYTES, TAIL_BYTES))

    def remove(self) -> None:
        """Kill the hypervisor, then remove the folder, then free the slot; the order matters."""
        self._kill()
        remove_tree(self.folder)
        for fd in self.held:
            os.close(fd)
        self.channel.socket.close()

    def _kill(self) -> None:
        """Kill the hypervisor and all processes that it started."""
        if self.process is not None:
            self.send_signal(signal.SIGKILL)
            # `pytest-xhyve reap` ends a process that cannot be killed here; the other guests must not wait for it.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_SIGNAL_SECONDS)
            self.process = None
        self._hang_up()


def out_of_descriptors() -> OSError:
    """The error for a process that has no file descriptors left."""
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def _duplicate(fd: int, above: int) -> int:
    """A duplicate of *fd* with a number from *above* on."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above)
    except OSError as error:
        # As fcntl(2) reports that even the first number is beyond the limit.
        if error.errno == errno.EINVAL:
            raise out_of_descriptors() from error
        raise


def _reserve(numbers: Collection[int]) -> None:
    """Open each of the descriptors *numbers* that is not open.

    `subprocess` makes the descriptors in ``pass_fds`` inheritable before it calls ``preexec_fn``, and fails if one is
    not open. It may also give a free number to a pipe of its own, which ``dup2`` would then close.
    """
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for number in numbers:
            try:
                fcntl.fcntl(number, fcntl.F_GETFD)
            except OSError:
                os.dup2(null, number, inheritable=False)
    finally:
        if null not in numbers:
            os.close(null)


def _limit_descriptors() -> None:
    """Let this process, which becomes a hypervisor, open as many files as shells usually allow.

    Each connection that a guest opens through QEMU's own network takes a descriptor, and up to 256 KiB for what waits
    to be sent. Newer QEMUs raise the lower limit to the upper one themselves.
    """
    most = min(limit for limit in (*resource.getrlimit(resource.RLIMIT_NOFILE), _MOST_DESCRIPTORS) if limit >= 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when the guardian *parent* dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _descendants(pid: int) -> list[int]:
    """The children of the process *pid* and their children, from ps(1), which also lists those of other users."""
    table = _run(["/bin/ps", "-A", "-o", "pid=", "-o", "ppid="])
    parents = {int(child): int(parent) for child, parent in map(str.split, table.splitlines())}
    found: list[int] = []
    wave = [pid]
    while wave:
        wave = [child for child, parent in parents.items() if parent in wave]
        found += wave
    return found


def _run(argv: Sequence[str]) -> str:
    """The standard output of a program; empty if it cannot run, because the other guests must go on."""
    try:
        return subprocess.run(
            argv,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=_SIGNAL_SECONDS,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def exists(pid: int) -> bool:
    """Whether there is a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
