"""The guests of a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from pytest_xhyve.guest import chaos, cluster_chaos
from pytest_xhyve.guest.chaos import Chaos
from pytest_xhyve.guest.cluster_lans import ClusterLans
from pytest_xhyve.guest.shell import Command
from pytest_xhyve.model.errors import ConfigurationError, XhyveError
from pytest_xhyve.model.link import Impairment, LinkFaults
from pytest_xhyve.model.values import parse_size, short_repr, suggest

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.guest.snapshots import Snapshot
    from pytest_xhyve.lan.switch import Switch
    from pytest_xhyve.model.completed import Completed

Result = TypeVar("Result")


class Guests:
    """Guests that were started together, and share LANs: ``guests["server"]`` or ``guests.server``.

    Iteration gives the guests in the order of the marker, so that ``a, b = guests`` works. Used as a context manager,
    they are removed at the end of the block.

    Args:
        guests: each guest, by its name.
        switches: the switch of each LAN, by the LAN's name.
        resources: closed after the guests are removed; this ends the switches.
    """

    def __init__(self, guests: Mapping[str, Guest], switches: Mapping[str, Switch], resources: ExitStack) -> None:
        self._guests = dict(guests)
        self._lans = ClusterLans(self._guests, switches)
        self._resources = resources

    def __getitem__(self, name: str) -> Guest:
        try:
            return self._guests[name]
        except KeyError:
            raise KeyError(self._unknown(name)) from None

    def __getattr__(self, name: str) -> Guest:
        # Without this, copy and pickle would recurse before __init__ has run.
        if name.startswith("_") or name not in self._guests:
            raise AttributeError(self._unknown(name))
        return self._guests[name]

    def __iter__(self) -> Iterator[Guest]:
        return iter(self._guests.values())

    def __len__(self) -> int:
        return len(self._guests)

    def __contains__(self, guest: object) -> bool:
        return guest in self._guests or guest in self._guests.values()

    def __repr__(self) -> str:
        return f"<Guests {', '.join(self._guests)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keep_or_remove(error)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the guests."""
        return tuple(self._guests)

    def run_all(self, command: Command, *, check: bool = True, **options: Any) -> dict[str, Completed]:
        """Run *command* in all guests at the same time.

        Args:
            command: as for `Guest.run`.
            check: whether to raise an error if an exit code is not 0, once the command has ended in all guests.
            options: the other arguments of `Guest.run`.

        Returns:
            the results, by the guest's name.

        Raises:
            XhyveError: that of the first guest in which the command failed; notes name the others.
        """
        __tracebackhide__ = True
        return self._in_all(lambda guest: guest.run(command, check=check, **options))

    def partition(self, one: Sequence[str | Guest], other: Sequence[str | Guest], *, one_way: bool = False) -> None:
        """Let no frame pass between two groups of guests, on any LAN, until `heal`. The guests keep their carrier.

        Args:
            one: guests, or their names.
            other: guests, or their names; none of *one*.
            one_way: whether frames from *other* to *one* still pass.

        Raises:
            ConfigurationError: a group is empty, or a guest is not of this cluster or in both groups.
            LanFailed: a switch has died.
        """
        first, second = self._names_of(one), self._names_of(other)
        if not first or not second:
            raise ConfigurationError('a partition has guests on both sides: guests.partition(["a"], ["b", "c"])')
        both = [name for name in first if name in second]
        if both:
            raise ConfigurationError(f"guest {both[0]} is on both sides of the partition")
        self._lans.block([(a, b) for a in first for b in second], both_ways=not one_way)

    def link(
        self,
        one: str | Guest,
        other: str | Guest,
        *,
        one_way: bool = False,
        seed: int = 0,
        **faults: Unpack[LinkFaults],
    ) -> None:
        """Make the link between two guests slow or lossy, on all their LANs; without a fault, make it good again.

        The switch does it, so that the guests cannot see or undo it. It replaces what an earlier call has set.

        Args:
            one: a guest, or its name.
            other: another one.
            one_way: whether this holds for frames from *one* to *other* only.
            seed: selects which frames are lost, doubled or damaged.
            faults: what happens to the frames, each way:
                ``latency="100ms"``: how late each one is; also in seconds, as 0.1;
                ``jitter="20ms"``: by how much this varies, at most the latency; the order stays;
                ``loss="5%"``: the share that is lost; also as 0.05;
                ``rate="1mbit"``: bits per second; what would wait longer than a second is lost;
                ``duplicate="1%"``: the share that arrives twice;
                ``reorder="1%"``: the share that is not late, and so overtakes others;
                ``corrupt="1%"``: the share of which one bit is wrong.

        Raises:
            ConfigurationError: a value is invalid, or a guest is not of this cluster.
            LanFailed: a switch has died.
        """
        first, second = self._names_of([one, other])
        if first == second:
            raise ConfigurationError(f"a link is between two guests, not from {first} to itself")
        impairment = Impairment.parse(**faults)
        self._lans.impair([(first, second)], impairment, both_ways=not one_way, seed=seed)

    def heal(self) -> None:
        """End all partitions, and make all links good.

        Raises:
            LanFailed: a switch has died.
        """
        self._lans.heal()

    def chaos(self, *, seed: int, faults: Sequence[str] = cluster_chaos.USUAL, every: float = 1.0) -> Chaos:
        """Inject faults in the background for the duration of a ``with`` block, one after the other; heal at its end.

        See `Guest.chaos`. A fault of a guest is injected into one that the seed chooses.

        Args:
            seed: chooses the faults.
            faults: the kinds to choose from: ``partition``, ``slow link``, ``lossy link``, and those of `Guest.chaos`.
            every: a fault begins each so many seconds, and ends before the next one.

        Raises:
            ConfigurationError: an argument is invalid, or the cluster has only one guest.
        """
        if len(self) < 2:
            raise ConfigurationError("faults of a LAN need two guests; the cluster has one")
        series = chaos.plan(seed, faults, every, cluster_chaos.KINDS)
        for guest in self:
            guest._faults.note("chaos", f"seed {seed}, {', '.join(faults)}, every {every:g} s")
        return Chaos(f"the cluster {', '.join(self.names)}", partial(cluster_chaos.inject, self), series)

    def snapshot(self) -> dict[str, Snapshot]:
        """Save all guests as they are at one moment, by their names; they run on, and `restore` brings this state back.

        Raises:
            NotSupported: only QEMU can do that.
            XhyveError: a guest is off, or no space is left.
        """
        with ExitStack() as paused:
            for guest in self:
                vm = guest._power.machine
                if not vm.is_paused():
                    vm.pause()
                    paused.callback(vm.resume)
            return self._in_all(lambda guest: guest.snapshot())

    def restore(self, snapshots: Mapping[str, Snapshot]) -> None:
        """Bring back the state of *snapshots*, which `snapshot` returned; faults of the LANs end.

        Connections between the guests go on. Connections to the guests are broken, as by `Guest.restore`.

        Raises:
            XhyveError: a snapshot is missing, was removed, or cannot be restored.
        """
        from pytest_xhyve.guest.snapshots import check  # noqa: PLC0415

        missing = [name for name in self.names if name not in snapshots]
        if missing:
            raise XhyveError(f"there is no snapshot of guest {missing[0]}; guests.snapshot() takes one of each")
        for guest in self:
            check(snapshots[guest.name], guest.name, guest._folder)
        self.heal()
        # A guest that still runs would answer those that are restored already, and break their connections.
        self._in_all(lambda guest: guest._power.switch_off())
        self._in_all(lambda guest: guest.restore(snapshots[guest.name]))

    @contextmanager
    def capture(
        self, path: str | os.PathLike[str], *, lan: str | None = None, max_size: int | str = "1G"
    ) -> Iterator[Path]:
        """For the time of a ``with`` block, write the frames of a LAN to a file that Wireshark reads (pcapng).

        The file has an interface for each guest, with the frames that the guest sent. With ``--xhyve-artifacts``, a
        copy is kept with the test's artifacts.

        Args:
            path: the file to write; folders above it are created.
            lan: the LAN's name; None for the only one.
            max_size: how long the file may become, as ``"4G"``; a guest can send any number of frames.

        Raises:
            ConfigurationError: the cluster has no such LAN, or several and *lan* is None; or *max_size* is not a size.
            LanFailed: the switch has died, or the LAN's frames are captured already.
            OSError: the file cannot be written.
            XhyveError: at the end of the block: the file is not complete, for example because the disk is full.
        """
        switch = self._lans.find(lan)
        limit = parse_size(max_size)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack, target.open("wb") as file, switch.capturing(file.fileno(), limit):
            # Above all if the test fails in the block.
            stack.callback(self._report_file, target)
            yield target

    def _report_file(self, path: Path) -> None:
        first = next(iter(self))
        first._instance.events.file_fetched(first, path)

    def ansible_inventory(self, path: str | os.PathLike[str]) -> Path:
        """Write an inventory by which Ansible reaches the guests by their names; it is right until they restart.

        Args:
            path: the file to write, ending with ``.yml``; folders above it are created.

        Returns:
            *path*.

        Raises:
            XhyveError: a guest is off.
            OSError: the file cannot be written.
        """
        from pytest_xhyve.guest.ansible import write_inventory  # noqa: PLC0415

        target = Path(path)
        write_inventory(target, self)
        return target

    def remove(self) -> None:
        """Remove the guests and their LANs. A second call does nothing."""
        with ExitStack() as stack:
            stack.callback(self._resources.close)
            for guest in self:
                stack.callback(guest.remove)

    def _keep_or_remove(self, error: BaseException | None = None) -> None:
        """As `Guest._keep_or_remove`, for each guest."""
        with ExitStack() as stack:
            stack.callback(self._resources.close)
            stack.callback(self._lans.keep)
            for guest in self:
                stack.callback(guest._keep_or_remove, error)

    def _in_all(self, action: Callable[[Guest], Result]) -> dict[str, Result]:
        """Do *action* for all guests at the same time; the error is that of the first, and names the others."""
        __tracebackhide__ = True
        with ThreadPoolExecutor(len(self._guests), "xhyve-cluster") as pool:
            running = {name: pool.submit(action, guest) for name, guest in self._guests.items()}
        failed = {name: error for name, each in running.items() if (error := each.exception()) is not None}
        for first, error in failed.items():
            for other, its_error in failed.items():
                if other != first:
                    error.add_note(f"it failed in guest {other}, too: {str(its_error).splitlines()[0]}")
            raise error
        return {name: each.result() for name, each in running.items()}

    def _names_of(self, guests: Sequence[str | Guest]) -> list[str]:
        if isinstance(guests, str):
            raise ConfigurationError(f"{guests!r} is not a list of guests; write [{guests!r}]")
        names = {id(guest): name for name, guest in self._guests.items()}
        found = [guest if isinstance(guest, str) else names.get(id(guest), short_repr(guest)) for guest in guests]
        for name in found:
            if name not in self._guests:
                raise ConfigurationError(self._unknown(name))
        return found

    def _unknown(self, name: str) -> str:
        guests = self.__dict__.get("_guests", {})
        return f"the cluster has no guest {name!r}{suggest(name, guests)} (known: {', '.join(guests)})"
