"""The guardian: the process that owns a run's hypervisors and ends them when the run dies.

pytest can be killed at any moment and then cannot clean up. So pytest does not start hypervisors; it asks its guardian
to start them. Each guest has a socket between the two. The guest lives while pytest holds its end of the socket. When
that end closes, because the test is over or because pytest was killed, the guardian kills the guest, removes its folder
and closes its own end. There is one way to remove a guest, and every end of a run uses it.

A kept guest is the one exception: the guardian closes its connections to pytest and stays until that guest ends. A
guest that all workers of a run share is kept until the process of the run ends: the controller of pytest-xdist.

If the guardian itself is killed, Linux kills the hypervisors (``PR_SET_PDEATHSIG``, prctl(2)), and the next run
removes the folders (`pytest_xhyve.host.runs`). Linux sends this signal when the *thread* that started the hypervisor
ends. The guardian has only one thread; a thread of pytest could end too early.

The descriptors that come with a guest (the lock of its slot) stay open in the guardian and in the hypervisor. So the
slot becomes free when the last process that could use its UUID has ended.

This file runs as a script. It and the modules of the package that it imports need only the standard library, so that
it starts in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Last, so that no file beside the package takes the place of one of the standard library's.
    sys.path.append(str(Path(__file__).parents[2]))

from pytest_xhyve.host.bounded_log import shrink
from pytest_xhyve.host.channel import Channel
from pytest_xhyve.host.guest_folder import CONSOLE, OUTPUT, remove_tree
from pytest_xhyve.host.owned_guest import OwnedGuest, exists, out_of_descriptors

_PARENT_CHECK_SECONDS = 0.5
_SHRINK_SECONDS = 5.0


class _Guardian:
    """The event loop: new guests from pytest, messages for each guest, hypervisors that exit."""

    def __init__(self, control: socket.socket, run_folder: Path, salvage: Path | None) -> None:
        self._control = Channel(control)
        self._salvage = salvage
        self._run_folder = run_folder
        self._guests: dict[int, OwnedGuest] = {}
        self._kept: list[OwnedGuest] = []
        self._selector = selectors.DefaultSelector()
        self._parent = os.getppid()
        self._next_shrinking = 0.0

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
            # The kernel closes the sockets of a killed pytest one after the other: these may still be open.
            for number in list(self._guests):
                self._disconnect(number)
            for guest in [guest for guest in self._kept if guest.is_held or guest.has_ended()]:
                self._kept.remove(guest)
                self._remove(guest)
            if self._kept:
                self._detach_from_pytest()
            while self._kept:
                polls = any(guest.run_process is not None for guest in self._kept)
                for key, _ in self._selector.select(_PARENT_CHECK_SECONDS if polls else _SHRINK_SECONDS):
                    key.data()
                self._end_with_runs()
                self._shrink_logs()
        finally:
            with contextlib.ExitStack() as stack:
                stack.callback(remove_tree, self._run_folder)
                # An error at one of them keeps none of the others.
                for guest in [*self._guests.values(), *self._kept]:
                    stack.callback(guest.remove)

    def _serve_pytest(self) -> None:
        # A child that the test forked may hold pytest's end open, so the loop also ends when pytest is dead.
        while os.getppid() == self._parent:
            for key, _ in self._selector.select(_PARENT_CHECK_SECONDS):
                if key.data() is False:
                    return
            self._end_with_runs()
            self._shrink_logs()

    def _shrink_logs(self) -> None:
        """Bound what guests print: a test may do something else meanwhile, and a kept guest has no test."""
        if time.monotonic() < self._next_shrinking:
            return
        self._next_shrinking = time.monotonic() + _SHRINK_SECONDS
        for guest in [*self._guests.values(), *self._kept]:
            for name in (CONSOLE, OUTPUT):
                shrink(guest.folder / name)

    def _end_with_runs(self) -> None:
        """Remove each guest of a run whose process has ended, where the system does not report that."""
        for guest in [*self._guests.values(), *self._kept]:
            if guest.run_process is not None and not exists(guest.run_process):
                self._end_kept(guest)

    def _watch(self, guest: OwnedGuest, process: int) -> None:
        """Remove *guest* when the process ends whose pidfd_open(2) is *process*."""

        def end() -> bool:
            self._selector.unregister(process)
            os.close(process)
            self._end_kept(guest)
            return True

        guest.run_process = None
        self._selector.register(process, selectors.EVENT_READ, end)

    def _end_kept(self, guest: OwnedGuest) -> None:
        for number in [number for number, other in self._guests.items() if other is guest]:
            self._stop_listening(number)
            guest.remove()
        if guest in self._kept:
            self._kept.remove(guest)
            guest.remove()

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
        guest = OwnedGuest(channel, Path(message["folder"]), held, self._selector)
        self._guests[end] = guest
        self._selector.register(channel.socket, selectors.EVENT_READ, lambda: self._handle(end, guest))
        if self._control.is_short:
            guest.refuse(out_of_descriptors())
        else:
            channel.send({"ready": True})
        return True

    def _handle(self, number: int, guest: OwnedGuest) -> bool:
        if self._guests.get(number) is not guest:
            # Another event of the same moment has removed it.
            return True
        message, fds = guest.channel.receive()
        if message is None:
            self._disconnect(number)
            return True
        if guest.channel.is_short:
            for fd in fds:
                os.close(fd)
            guest.refuse(out_of_descriptors())
            return True
        try:
            self._obey(guest, message, fds)
        except Exception as error:
            # The other guests go on, whatever this one meets.
            guest.refuse(error)
        return self._handle(number, guest) if guest.channel.pending() else True

    def _disconnect(self, number: int) -> None:
        """Close the connection of a guest; the guest stays only if it is kept."""
        guest = self._stop_listening(number)
        if guest.is_kept and not guest.has_ended():
            guest.channel.socket.close()
            self._kept.append(guest)
        else:
            self._remove(guest)

    def _stop_listening(self, number: int) -> OwnedGuest:
        guest = self._guests.pop(number)
        self._selector.unregister(guest.channel.socket)
        return guest

    def _remove(self, guest: OwnedGuest) -> None:
        if self._salvage is not None and not guest.is_released and not guest.is_kept:
            guest.salvage(self._salvage / self._run_folder.name / guest.folder.name)
        guest.remove()

    def _obey(self, guest: OwnedGuest, message: Mapping[str, Any], fds: list[int]) -> None:
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
            guest.keep(message["keep"], held=message["held"], run_process=message["run_process"])
            if fds:
                self._watch(guest, fds[0])

    def _children(self, woken: socket.socket) -> bool:
        with contextlib.suppress(BlockingIOError):
            woken.recv(4096)
        for guest in self._guests.values():
            guest.report_exit()
        for guest in [guest for guest in self._kept if guest.has_ended()]:
            self._kept.remove(guest)
            guest.remove()
        return True


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
