"""The plugin's side of a switch: start it, and connect guests to it.

`pytest_xhyve.lan.switch_process` describes what the switch does.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pytest_xhyve.host.cable import CableEnd
from pytest_xhyve.host.channel import Channel
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.guest_folder import PIDFILE
from pytest_xhyve.lan import switch_process
from pytest_xhyve.model.errors import LanFailed, XhyveError
from pytest_xhyve.model.link import Impairment, LinkState

Links = Sequence[tuple[str, str]]
"""Ways from one guest to another, by their names."""

_CONTROL_FD = 10
_ANSWER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class PortCounters:
    """What a switch has counted at a guest's cable.

    Attributes:
        received: frames from the guest.
        sent: frames to the guest.
        too_short: frames from the guest that are shorter than an Ethernet header, and went nowhere.
        overflowed: frames to the guest that it did not read in time, so that they were lost.
        broken: why the switch has cut the cable; empty if it has not.
    """

    received: int
    sent: int
    too_short: int
    overflowed: int
    broken: str


class Switch:
    """The switch of one LAN; safe to use from several threads.

    Args:
        process: the guardian's process of the switch.
        control: the plugin's end of the socket for requests.
        lan: the LAN's name, for messages.
    """

    def __init__(self, process: GuardedProcess, control: socket.socket, lan: str) -> None:
        self._process = process
        self._channel = Channel(control)
        self._lan = lan
        self._lock = threading.Lock()
        self._asked = 0
        self._members: set[str] = set()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid is not None
        return self._process.pid

    def connect(self, port: str, end: CableEnd) -> None:
        """Connect the guest *port* by its cable's *end*, in the place of its cable before.

        Raises:
            LanFailed: the switch has died, or does not answer.
        """
        self._ask({"connect": port}, [each.fileno() for each in end.sockets])
        self._members.add(port)

    @property
    def members(self) -> frozenset[str]:
        """The guests that were connected, also those that are off now."""
        return frozenset(self._members)

    def counters(self) -> dict[str, PortCounters]:
        """What the switch has counted at the present cable of each guest, by the guest's name.

        Raises:
            LanFailed: the switch has died, or does not answer.
        """
        counted: Mapping[str, Mapping[str, Any]] = self._ask({"counters": True})["counters"]
        return {name: PortCounters(**counters) for name, counters in counted.items()}

    def links(self) -> tuple[LinkState, ...]:
        """What `impair` and `block` have changed, and what is not healed.

        Raises:
            LanFailed: the switch has died, or does not answer.
        """
        return tuple(map(LinkState.from_dict, self._ask({"links": True})["links"]))

    def restore_links(self, links: Sequence[LinkState]) -> None:
        """Change *links* as another switch had, which `links` returned. Which frames are lost is chosen from the start.

        Raises:
            LanFailed: the switch has died, or does not answer.
        """
        for link in links:
            way = [(link.source, link.target)]
            if link.impairment:
                self.impair(way, link.impairment, seed=link.seed)
            if link.blocked:
                self.block(way)

    def impair(self, links: Links, impairment: Impairment, *, seed: int | str = 0) -> None:
        """Set what happens to the frames on *links*.

        Args:
            links: pairs of the names of two guests: from where, and to where.
            impairment: what happens; without a fault, the frames pass as before.
            seed: makes the same frames get lost, doubled or damaged each time.

        Raises:
            LanFailed: the switch has died, or does not answer.
        """
        plain = impairment.to_dict() if impairment else None
        self._ask({"impair": list(links), "impairment": plain, "seed": str(seed)})

    def block(self, links: Links, *, blocked: bool = True) -> None:
        """Let no frame pass on *links*, which are as for `impair`, or let frames pass again.

        Raises:
            LanFailed: the switch has died, or does not answer.
        """
        self._ask({"block": list(links), "blocked": blocked})

    def heal(self) -> None:
        """End what `impair` and `block` have done.

        Raises:
            LanFailed: the switch has died, or does not answer.
        """
        self._ask({"heal": True})

    @contextmanager
    def capturing(self, fd: int, max_bytes: int) -> Iterator[None]:
        """For the time of the block, write the frames to the open file *fd*, which the switch gets a duplicate of.

        Args:
            fd: its descriptor.
            max_bytes: how long the file may become.

        Raises:
            LanFailed: the switch has died or does not answer, or frames are captured already.
            XhyveError: the file could not be written to its end.
        """
        self._ask({"capture": True, "max_bytes": max_bytes}, [fd])
        try:
            yield
        except BaseException as error:
            try:
                self._end_capture()
            except XhyveError as second:
                error.add_note(str(second))
            raise
        self._end_capture()

    def _end_capture(self) -> None:
        answer = self._ask({"end_capture": True})
        if answer["why_incomplete"]:
            raise XhyveError(
                f"the capture of LAN {self._lan} ends after {answer['frames']} frames: {answer['why_incomplete']}"
            )

    def check(self) -> None:
        """Raise an error if the switch has died.

        Raises:
            LanFailed: the switch has died.
        """
        if self._process.poll() is not None:
            raise self._died()

    def keep(self) -> None:
        """Let the switch run on after this process, until all guests have closed their ends."""
        # If it has died, the kept guests have no LAN any more; their run has reported that.
        with suppress(XhyveError):
            self._process.keep({"kept": True})

    def _ask(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        with self._lock:
            try:
                self._asked += 1
                self._channel.send({**message, "number": self._asked}, fds)
                answer, _ = self._channel.receive()
                while answer is not None and answer["number"] != self._asked:
                    # The late answer to a request that has exceeded its limit.
                    answer, _ = self._channel.receive()
            except TimeoutError as error:
                raise LanFailed(
                    f"the switch of LAN {self._lan} (process {self.pid}) did not answer for {_ANSWER_SECONDS:g} s\n"
                    "  the host is overloaded, or the process was stopped"
                ) from error
            except OSError as error:
                raise self._died() from error
        if answer is None:
            raise self._died()
        if "error" in answer:
            raise LanFailed(f"the switch of LAN {self._lan} refused: {answer['error']}")
        return answer

    def _died(self) -> LanFailed:
        output = "".join(f"\n    {line}" for line in self._process.output().splitlines())
        return LanFailed(
            f"the switch of LAN {self._lan} (process {self.pid}) has died, so its guests cannot reach each other\n"
            "  if you did not kill it, look for the out-of-memory killer in the kernel's log"
            + (f"\n  its output:{output}" if output else "")
        )


@contextmanager
def running_switch(process: GuardedProcess, lan: str) -> Iterator[Switch]:
    """Start the switch of the new LAN *lan* in *process*; it ends with the guardian's process.

    Raises:
        OSError: no file descriptor is left.
        HypervisorExited: the guardian is dead.
    """
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(_ANSWER_SECONDS)
        with theirs:
            # The path of the pidfile names the run, as that of a hypervisor does; the switch writes no file.
            pidfile = str(process.folder / PIDFILE)
            argv = [sys.executable, "-IS", switch_process.__file__, str(_CONTROL_FD), pidfile]
            process.start(argv, {}, {_CONTROL_FD: theirs.fileno()})
        yield Switch(process, ours, lan)
