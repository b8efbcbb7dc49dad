"""The switch: a process that passes Ethernet frames between the guests of one LAN.

A cable is one end of a socket pair. If they are stream sockets, each frame follows its length, four bytes in network
order, as QEMU's ``-netdev socket`` and ``-netdev stream`` send it (net/socket.c in QEMU's sources). If they are
datagram sockets, each datagram is a frame, as vfkit sends it; then a second socket shows when the guest's end closes.
The switch has no name in the file system and no address, so that no other program can join the LAN.

It learns behind which cable each Ethernet address is, and sends frames for other addresses to all guests (IEEE 802.1D).
A guest that does not read loses frames; nothing waits for it.

The guardian starts the switch, and ends it. The switch also ends when the plugin and all guests have closed their ends.

This file runs as a script. It and the modules of the package that it imports need only the standard library, so that
it starts in a few milliseconds.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Last, so that no file beside the package takes the place of one of the standard library's.
    sys.path.append(str(Path(__file__).parents[2]))

from pytest_xhyve.host.channel import Channel
from pytest_xhyve.lan.capture import Capture
from pytest_xhyve.lan.frames import HEADER
from pytest_xhyve.lan.links import Links
from pytest_xhyve.lan.port import Port, port_of

_MAX_ADDRESSES = 1024
_MULTICAST = 1
# The two addresses at the beginning of a frame.
_TARGET, _SENDER = slice(HEADER, HEADER + 6), slice(HEADER + 6, HEADER + 12)


class SwitchLoop:
    """The event loop: frames from guests, and requests of the plugin."""

    def __init__(self, control: socket.socket) -> None:
        self._control: Channel | None = Channel(control)
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._ports: dict[int, Port] = {}
        self._closed: dict[str, Port] = {}
        self._addresses: dict[bytes, Port] = {}
        self._links = Links()
        self._capture: Capture | None = None

    def serve(self) -> None:
        """Pass frames until the plugin and all guests have closed their ends."""
        while self._control is not None or self._ports:
            events = self._selector.select(self._seconds_to_wait())
            if not events and self._capture is not None:
                # The file is up to date for those who watch it, and if this process is killed.
                self._capture.flush()
            # The requests first, so that no flood of frames delays them.
            if len(events) > 1:
                events.sort(key=lambda event: event[0].fd in self._ports)
            for key, mask in events:
                port = self._ports.get(key.fd)
                if port is not None:
                    self._move(port, mask)
                elif isinstance(key.data, Port):
                    self._close(key.data)
                elif self._control is not None and key.fileobj is self._control.socket:
                    self._obey(self._control)
                    # Two, if this process was stopped for longer than the plugin waits for an answer.
                    while self._control is not None and self._control.pending():
                        self._obey(self._control)
            self._deliver_late_frames()

    def _seconds_to_wait(self) -> float | None:
        if self._capture is not None and self._capture.has_unwritten:
            return 0.0
        return self._links.seconds_to_next(time.monotonic()) if self._links.has_waiting else None

    def _deliver_late_frames(self) -> None:
        if not self._links.has_waiting:
            return
        ports = {port.name: port for port in self._ports.values()}
        touched = set()
        for target, frame in self._links.take_arrived(time.monotonic()):
            if target in ports:
                ports[target].queue(frame)
                touched.add(ports[target])
        for port in touched:
            self._flush(port)

    def _move(self, port: Port, mask: int) -> None:
        """Read from *port* what has arrived, and send what waits."""
        try:
            frames = port.read() if mask & selectors.EVENT_READ else []
        except EOFError:
            self._close(port)
            return
        if len(frames) == 1 and mask == selectors.EVENT_READ and self._pass_straight(port, frames[0]):
            return
        touched = {port} if mask & selectors.EVENT_WRITE else set()
        for frame in frames:
            touched.update(self._pass_on(port, frame))
        for each in touched:
            self._flush(each)

    def _pass_straight(self, source: Port, frame: bytes) -> bool:
        """Send *frame* at once if nothing is to be done but that, as for those of a ping; return whether it was."""
        target = self._addresses.get(frame[_TARGET])
        if target is None or target is source or self._addresses.get(frame[_SENDER]) is not source:
            return False
        if self._links or self._capture is not None:
            return False
        if not target.send(frame):
            self._flush(target)
        return True

    def _pass_on(self, source: Port, frame: bytes) -> Sequence[Port]:
        """Queue *frame* for the guests that it is for, and return them."""
        target, sender = frame[_TARGET], frame[_SENDER]
        if not sender[0] & _MULTICAST and self._addresses.get(sender) is not source:
            self._learn(sender, source)
        known = None if target[0] & _MULTICAST else self._addresses.get(target)
        targets = [known] if known is not None else [port for port in self._ports.values() if port is not source]
        if known is source:
            targets = []
        if self._capture is not None:
            self._capture.add(source.name, frame)
        if self._links:
            now = time.monotonic()
            for port in targets:
                self._links.send(source.name, port.name, frame, now, port.queue)
        else:
            for port in targets:
                port.queue(frame)
        return targets

    def _learn(self, address: bytes, port: Port) -> None:
        """Remember where *address* is. A guest that invents addresses makes the switch forget others, not grow."""
        self._addresses.pop(address, None)
        self._addresses[address] = port
        if len(self._addresses) > _MAX_ADDRESSES:
            del self._addresses[next(iter(self._addresses))]

    def _flush(self, port: Port) -> None:
        if self._ports.get(port.end.fileno()) is not port:
            return
        try:
            is_left = port.flush()
        except EOFError:
            self._close(port)
            return
        if is_left != port.waits:
            port.waits = is_left
            self._selector.modify(port.end, selectors.EVENT_READ | (selectors.EVENT_WRITE if is_left else 0))

    def _close(self, port: Port) -> None:
        if self._ports.get(port.end.fileno()) is not port:
            # Both of its sockets have ended at once.
            return
        self._selector.unregister(port.end)
        if port.life is not None:
            self._selector.unregister(port.life)
        del self._ports[port.end.fileno()]
        self._closed[port.name] = port
        port.close()
        self._addresses = {address: known for address, known in self._addresses.items() if known is not port}

    def _obey(self, control: Channel) -> None:
        message, fds = control.receive()
        if message is None:
            self._selector.unregister(control.socket)
            control.socket.close()
            self._control = None
            return
        try:
            if control.is_short:
                for fd in fds:
                    os.close(fd)
                raise OSError(os.strerror(errno.EMFILE))
            answer = self._answer(message, fds)
        except Exception as error:
            # The guests go on, whatever this request meets.
            answer = {"error": str(error)}
        try:
            control.send({**answer, "number": message["number"]})
        except OSError:
            # The plugin has died; the next read finds out.
            return

    def _answer(self, message: Mapping[str, Any], fds: list[int]) -> dict[str, Any]:
        if "connect" in message:
            name = message["connect"]
            for port in [port for port in self._ports.values() if port.name == name]:
                self._close(port)
            self._links.forget(name)
            port = port_of(name, *(socket.socket(fileno=fd) for fd in fds))
            self._ports[port.end.fileno()] = port
            self._selector.register(port.end, selectors.EVENT_READ)
            if port.life is not None:
                self._selector.register(port.life, selectors.EVENT_READ, port)
        if "counters" in message:
            # The cable that a guest has now comes after those that it had.
            ports = {**self._closed, **{port.name: port for port in self._ports.values()}}
            return {"counters": {name: port.counters() for name, port in ports.items()}}
        self._change_links(message)
        if "links" in message:
            return {"links": self._links.state()}
        if "capture" in message:
            if self._capture is not None:
                for fd in fds:
                    os.close(fd)
                raise ValueError("frames of this LAN are captured already")
            (fd,) = fds
            self._capture = Capture(fd, message["max_bytes"])
        if "end_capture" in message and self._capture is not None:
            ended, self._capture = self._capture, None
            ended.close()
            return {"frames": ended.frames, "why_incomplete": ended.error}
        return {}

    def _change_links(self, message: Mapping[str, Any]) -> None:
        for source, target in message.get("impair", ()):
            self._links.impair(source, target, message["impairment"], message["seed"])
        for source, target in message.get("block", ()):
            self._links.block(source, target, blocked=message["blocked"])
        if "heal" in message:
            self._links.clear()


def main(arguments: Sequence[str]) -> None:
    """Run as ``switch_process.py CONTROL_FD PIDFILE``; PIDFILE only lets others see which run the process is of."""
    control, _ = arguments
    os.chdir("/")
    SwitchLoop(socket.socket(fileno=int(control))).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
