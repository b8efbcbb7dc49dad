"""Make the disks of chosen crash states, and check them on the host."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from pytest_xhyve.formats.qcow2_overlay import Qcow2Overlay
from pytest_xhyve.guest.crash_choice import ChosenState, CrashChooser
from pytest_xhyve.guest.recorder import RecordedDisk
from pytest_xhyve.host.clone import clone_file
from pytest_xhyve.host.processes import run_program
from pytest_xhyve.host.qemu_img import run_qemu_img
from pytest_xhyve.host.replay import Piece, RawDisk, replay
from pytest_xhyve.model.crash_state import CrashState
from pytest_xhyve.model.errors import ConfigurationError, XhyveError
from pytest_xhyve.model.machine import Disk

Check = str | Sequence[str] | Callable[[Path, CrashState], object]
"""A command in which ``{disk}`` is replaced by the path of a disk, or a function that gets the path and the state."""

_PLACE = "{disk}"
_OUTPUT_LINES = 20


class CrashDisks:
    """The disks of crash states, made one after the other; use it as a context manager.

    A raw file gets what is flushed, from one state to the next, so that each write is replayed once.

    Args:
        disk: the record.
        chooser: knows the record's entries.
        folder: a new folder; it is removed at the end, unless an error ended the block.

    Raises:
        XhyveError: the disk cannot be converted.
    """

    def __init__(self, disk: RecordedDisk, chooser: CrashChooser, folder: Path) -> None:
        self._recorded = disk
        self._chooser = chooser
        self._folder = folder
        self._flushed_disk = folder / "flushed.raw"
        self._replayed = 0
        self._stack = ExitStack()
        folder.mkdir(mode=0o700)
        done = run_qemu_img(
            "convert", "-f", disk.base.format, "-O", "raw", str(disk.base.path), str(self._flushed_disk)
        )
        if done.returncode != 0:
            raise XhyveError(f"cannot read the disk {disk.base.path}: {done.stderr.strip()}")
        self._fd = os.open(self._flushed_disk, os.O_RDWR | os.O_CLOEXEC)
        self._stack.callback(os.close, self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if error is None:
            shutil.rmtree(self._folder)

    def in_order(self, numbers: Iterable[int]) -> Iterator[ChosenState]:
        """The states with these *numbers*, in the order of time."""
        states = [self._chooser.choose(number) for number in numbers]
        return iter(sorted(states, key=lambda state: (state.flushed, state.number)))

    def raw(self, state: ChosenState) -> Path:
        """A file without a format that contains the disk of *state*, which is not before the one of the last call."""
        self._replay_flushed(state)
        path = self._folder / f"state-{state.number}.raw"
        path.unlink(missing_ok=True)
        clone_file(self._flushed_disk, path)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            replay(self._recorded.log, state.kept, RawDisk(fd))
        finally:
            os.close(fd)
        return path

    def overlay(self, state: ChosenState) -> Disk:
        """Like `raw`, but a file with the differences only; the next call makes it invalid."""
        self._replay_flushed(state)
        path = self._folder / f"state-{state.number}.qcow2"
        path.unlink(missing_ok=True)
        with Qcow2Overlay(path, self._recorded.size, self._flushed_disk, "raw") as target:
            replay(self._recorded.log, state.kept, target)
        return Disk(path, "qcow2")

    def _replay_flushed(self, state: ChosenState) -> None:
        entries = self._chooser.flushed(state)
        pieces = (Piece.whole(entry) for entry in entries[self._replayed :] if entry.size)
        replay(self._recorded.log, pieces, RawDisk(self._fd))
        self._replayed = len(entries)


def parse_check(check: Check) -> Callable[[Path, CrashState, float], None]:
    """A function that checks the disk at a path, which is in a state, within a number of seconds.

    Raises:
        ConfigurationError: *check* is a command without ``{disk}``, or its program is not installed.
    """
    if callable(check):
        function = check
        return lambda path, state, _: _call(function, path, state)
    words = shlex.split(check) if isinstance(check, str) else [os.fspath(word) for word in check]
    if not any(_PLACE in word for word in words):
        raise ConfigurationError(f"{check!r} has no place for the disk's path: write {_PLACE} there")
    if shutil.which(words[0]) is None:
        raise ConfigurationError(f"{words[0]} not found on this host, which the check runs")
    return lambda path, _, timeout: _run([word.replace(_PLACE, str(path)) for word in words], timeout)


def _call(function: Callable[[Path, CrashState], object], path: Path, state: CrashState) -> None:
    if function(path, state) is False:
        raise XhyveError(f"{getattr(function, '__name__', function)} returned False")


def _run(words: Sequence[str], timeout: float) -> None:
    try:
        done = run_program(words, timeout=timeout, merges_streams=True)
    except subprocess.TimeoutExpired as error:
        raise XhyveError(f"`{shlex.join(words)}` did not end within {timeout:g} s") from error
    if done.returncode != 0:
        output = "\n".join(f"    {line}" for line in done.stdout.splitlines()[-_OUTPUT_LINES:]) or "    (no output)"
        raise XhyveError(f"`{shlex.join(words)}` ended with exit code {done.returncode}:\n{output}")
