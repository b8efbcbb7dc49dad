"""The guardian: the process that owns a run's hypervisors and ends them when the run dies.

pytest can be killed at any moment and then cannot clean up. So pytest does not start hypervisors; it asks its guardian
to start them. Each guest has a socket between the two. The guest lives while pytest holds its end of the socket. When
that end closes, because the test is over or because pytest was killed, the guardian kills the guest, removes its folder
and closes its own end. There is one way to remove a guest, and every end of a run uses it.

A kept guest is the one exception: the guardian closes its connections to pytest and stays until that guest ends.

If the guardian itself is killed, Linux kills the hypervisors (``PR_SET_PDEATHSIG``, prctl(2)), and the next run
removes the folders (`pytest_xhyve.host.runs`). Linux sends this signal when the *thread* that started the hypervisor
ends. The guardian has only one thread; a thread of pytest could end too early.

The descriptors that come with a guest (the lock of its slot) stay open in the guardian and in the hypervisor. So the
slot becomes free when the last process that could use its UUID has ended.

This file runs as a script and imports only the standard library, so that it starts in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_PARENT_CHECK_SECONDS = 0.5
_SIGNAL_SECONDS = 5.0
_LOOK_SECONDS = 0.005
_OUTPUT = "hypervisor.log"
RECORD = "guest.json"
"""The file in a guest's folder that describes the guest to other processes."""
CONSOLE = "console.log"
"""The file in a guest's folder with the output of its serial port."""
PIDFILE = "hypervisor.pid"
"""The file in a guest's folder that the hypervisor's command line names; it identifies the guest of a process."""


class Channel:
    """One end of a stream socket pair. Each line is a JSON object; descriptors are sent beside it.

    The sender of a message with descriptors waits for the answer before it sends the next message, so each set of
    descriptors belongs to the message that it arrives with.
    """

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.is_short = False
        """Whether this process could not open all descriptors of the last message."""
        self._read = b""

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        line = json.dumps(message).encode() + b"\n"
        sent = socket.send_fds(self.socket, [line], list(fds))
        # A socket with a timeout takes only what fits into its buffer.
        self.socket.sendall(line[sent:])

    def receive(self) -> tuple[dict[str, Any] | None, list[int]]:
        """The next message and its descriptors; None if the other end is closed."""
        fds: list[int] = []
        self.is_short = False
        while b"\n" not in self._read:
            try:
                data, new, flags, _address = socket.recv_fds(self.socket, 1 << 16, 16)
            except ConnectionError:
                return None, fds
            fds += new
            self.is_short |= bool(flags & socket.MSG_CTRUNC)
            if not data:
                return None, fds
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return json.loads(line), fds

    def pending(self) -> bool:
        """Whether another complete message has already been read."""
        return b"\n" in self._read


class _Guest:
    """One guest in the guardian."""

    def __init__(self, channel: Channel, folder: Path, held: Sequence[int], selector: selectors.BaseSelector) -> None:
        self.channel = channel
        self.folder = folder
        self.held = list(held)
        self.process: subprocess.Popen[bytes] | None = None
        self.is_kept = False
        self.is_held = False
        self.is_released = False
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

        log = self.folder / _OUTPUT
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
            _write_atomically(self.folder / RECORD, self._record)
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
            is_over = self.process.poll() is not None and not any(map(_exists, pids))
            if number != signal.SIGKILL or is_over or time.monotonic() > end:
                return
            time.sleep(_LOOK_SECONDS)

    def report_pid(self, pid: int) -> None:
        """Write *pid* into the record: the started process is sudo, and *pid* is the hypervisor under it."""
        self._record["pid"] = pid
        with contextlib.suppress(OSError):
            _write_atomically(self.folder / RECORD, self._record)

    def keep(self, record: Mapping[str, Any], *, held: bool) -> None:
        """Keep the guest after pytest closes its end, and record that; if *held*, only until pytest ends.

        If the record cannot be written, for example on a full disk, the guest is not kept: no other process would
        find it, and another run would remove its folder.
        """
        self._record |= record
        answer: dict[str, Any] = {}
        try:
            _write_atomically(self.folder / RECORD, self._record)
            self.is_kept = self.process is not None
            self.is_held = held
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
            for name in (CONSOLE, _OUTPUT, RECORD):
                if (self.folder / name).exists():
                    shutil.copyfile(self.folder / name, folder / name)

    def remove(self) -> None:
        """Kill the hypervisor, then remove the folder, then free the slot; the order matters."""
        self._kill()
        _remove_tree(self.folder)
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


class _Guardian:
    """The event loop: new guests from pytest, messages for each guest, hypervisors that exit."""

    def __init__(self, control: socket.socket, run_folder: Path, salvage: Path | None) -> None:
        self._control = Channel(control)
        self._salvage = salvage
        self._run_folder = run_folder
        self._guests: dict[int, _Guest] = {}
        self._kept: list[_Guest] = []
        self._selector = selectors.DefaultSelector()
        self._parent = os.getppid()

    def serve(self) -> None:
        woken, wake = socket.socketpair()
        for end in (woken, wake):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        # Without a handler Python does not write to the wake-up descriptor. The loop asks the processes themselves.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(self._control.socket, selectors.EVENT_READ, self._accept)
        self._selector.register(woken, selectors.EVENT_READ, lambda: self._children(woken))
        try:
            self._serve_pytest()
            ending = [*self._guests.values(), *self._kept]
            self._guests.clear()
            self._kept = [guest for guest in ending if guest.is_kept and not guest.is_held and not guest.has_ended()]
            for guest in ending:
                if guest not in self._kept:
                    self._remove(guest)
            if self._kept:
                self._detach_from_pytest()
            while self._kept:
                for key, _ in self._selector.select():
                    key.data()
        finally:
            for guest in [*self._guests.values(), *self._kept]:
                guest.remove()
            _remove_tree(self._run_folder)

    def _serve_pytest(self) -> None:
        # A child that the test forked may hold pytest's end open, so the loop also ends when pytest is dead.
        while os.getppid() == self._parent:
            for key, _ in self._selector.select(_PARENT_CHECK_SECONDS):
                if key.data() is False:
                    return

    def _detach_from_pytest(self) -> None:
        """Close all descriptors that came from pytest; otherwise ``pytest | tee log`` would wait for this process."""
        self._selector.unregister(self._control.socket)
        self._control.socket.close()
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        os.close(null)

    def _accept(self) -> bool:
        """Accept a new guest; return False if pytest has closed its end."""
        message, fds = self._control.receive()
        if message is None:
            return False
        if not fds:
            # Out of descriptors. pytest finds that the guest's connection is closed, and this process alive.
            return True
        end, *held = fds
        channel = Channel(socket.socket(fileno=end))
        guest = _Guest(channel, Path(message["folder"]), held, self._selector)
        self._guests[end] = guest
        self._selector.register(channel.socket, selectors.EVENT_READ, lambda: self._handle(end))
        if self._control.is_short:
            guest.refuse(_out_of_descriptors())
        else:
            channel.send({"ready": True})
        return True

    def _handle(self, number: int) -> bool:
        guest = self._guests[number]
        message, fds = guest.channel.receive()
        if message is None:
            self._selector.unregister(guest.channel.socket)
            del self._guests[number]
            if guest.is_kept and not guest.has_ended():
                guest.channel.socket.close()
                self._kept.append(guest)
            else:
                self._remove(guest)
            return True
        if guest.channel.is_short:
            for fd in fds:
                os.close(fd)
            guest.refuse(_out_of_descriptors())
            return True
        try:
            self._obey(guest, message, fds)
        except Exception as error:
            # The other guests go on, whatever this one meets.
            guest.refuse(error)
        return self._handle(number) if guest.channel.pending() else True

    def _remove(self, guest: _Guest) -> None:
        if self._salvage is not None and not guest.is_released and not guest.is_kept:
            guest.salvage(self._salvage / self._run_folder.name / guest.folder.name)
        guest.remove()

    def _obey(self, guest: _Guest, message: Mapping[str, Any], fds: list[int]) -> None:
        if "argv" in message:
            console = socket.socket(fileno=fds.pop()) if message["console"] else None
            try:
                guest.spawn(message, dict(zip(message["fds"], fds, strict=True)))
            finally:
                for fd in fds:
                    os.close(fd)
            if console is not None:
                guest.listen(console)
        if "release" in message:
            guest.is_released = True
        if "signal" in message:
            guest.send_signal(message["signal"])
        if "pid" in message:
            guest.report_pid(message["pid"])
        if "keep" in message:
            guest.keep(message["keep"], held=message["held"])

    def _children(self, woken: socket.socket) -> bool:
        with contextlib.suppress(BlockingIOError):
            woken.recv(4096)
        for guest in self._guests.values():
            guest.report_exit()
        for guest in [guest for guest in self._kept if guest.has_ended()]:
            self._kept.remove(guest)
            guest.remove()
        return True


def _out_of_descriptors() -> OSError:
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def _duplicate(fd: int, above: int) -> int:
    """A duplicate of *fd* with a number from *above* on."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above)
    except OSError as error:
        # As fcntl(2) says that even the first number is beyond the limit.
        if error.errno == errno.EINVAL:
            raise _out_of_descriptors() from error
        raise


def _reserve(numbers: Collection[int]) -> None:
    """Open each of the descriptors *numbers* that is not open.

    `subprocess` makes the descriptors in ``pass_fds`` inheritable before it calls ``preexec_fn``, and fails if one is
    not open. It may also give a free number to a pipe of its own, which ``dup2`` would then close.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in numbers:
        try:
            fcntl.fcntl(number, fcntl.F_GETFD)
        except OSError:
            os.dup2(null, number, inheritable=False)
    if null not in numbers:
        os.close(null)


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


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _write_atomically(path: Path, content: Mapping[str, Any]) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(content))
    fresh.replace(path)


def _remove_tree(folder: Path) -> None:
    """Remove *folder*; retry for a second, because a program may still be writing into it."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


def main(arguments: Sequence[str]) -> None:
    """Run as ``guardian_process.py CONTROL_FD RUN_FOLDER [SALVAGE_FOLDER]``.

    The process inherits the run's lock and holds it open. SALVAGE_FOLDER gets the consoles of the guests of a run that
    was killed.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A handler that does nothing: the hypervisors would inherit an ignored signal (execve(2)).
        signal.signal(number, lambda *_: None)
    control, run_folder, *salvage = arguments
    folder = Path(salvage[0]) if salvage else None
    _Guardian(socket.socket(fileno=int(control)), Path(run_folder), folder).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
