"""What a host runs out of: file descriptors, memory and processes. Such an error is not the fault of what met it."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
from collections.abc import Iterator
from typing import Protocol

from pytest_xhyve.model.errors import XhyveError

# For the limit of a soft limit: a program may close all descriptors up to it, one by one.
_ENOUGH_DESCRIPTORS = 8192
_CURES = {
    errno.EMFILE: "this process may not open more files: raise its limit (ulimit -n; in a container: --ulimit nofile)",
    errno.ENFILE: "the host may not open more files: end what has many open, or raise fs.file-max (sysctl)",
    errno.ENOMEM: "the host or its container has too little memory: run fewer guests (--xhyve-max-guests), or give "
    "them less (--xhyve-memory)",
}
# Of fork(2) and clone(2) alone: a lock that is taken, or a read that has to wait, has the same number.
_NO_PROCESS = "this user may not start more processes: raise the limit (ulimit -u; in a container: --pids-limit)"


class _HasDescriptor(Protocol):
    def fileno(self) -> int: ...


def raise_descriptor_limit() -> None:
    """Raise the limit of open files of this process, and so of those that it starts, as far as this user may.

    Each guest takes about six descriptors here, and some shells allow 256 (RLIMIT_NOFILE, setrlimit(2)).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    # A system may have a lower limit of its own; then an error of a guest states the cure.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def is_readable(file: _HasDescriptor | int, timeout: float) -> bool:
    """Whether *file* can be read within *timeout* seconds; select(2) does not take descriptors from 1024 on."""
    waiting = select.poll()
    waiting.register(file, select.POLLIN)
    return bool(waiting.poll(max(0.0, timeout) * 1000))


def explain_exhaustion(error: BaseException) -> XhyveError | None:
    """An error that states what this host has run out of, and the cure; None if *error* is about something else."""
    number = _find_number(error)
    if number is None:
        return None
    return XhyveError(f"this host has run out of something: {os.strerror(number)}\n  {_CURES[number]}")


def cannot_start(program: str) -> XhyveError:
    """The error for a *program* that could not be started because fork(2) failed with EAGAIN."""
    return XhyveError(f"cannot start {program}: {os.strerror(errno.EAGAIN)}\n  {_NO_PROCESS}")


def find_cure(output: str) -> str | None:
    """What to do if the *output* of a program states that the host has run out of something; None otherwise."""
    # util/qemu-thread-posix.c in QEMU's sources.
    if f"qemu_thread_create: {os.strerror(errno.EAGAIN)}" in output:
        return _NO_PROCESS
    return next((cure for number, cure in _CURES.items() if os.strerror(number) in output), None)


def is_exhausted(error: BaseException) -> bool:
    """Whether the host's lack of something caused *error*."""
    return _find_number(error) is not None or any(
        find_cure(str(getattr(each, "message", each))) is not None for each in _causes(error)
    )


def _find_number(error: BaseException) -> int | None:
    numbers = (each.errno for each in _causes(error) if isinstance(each, OSError))
    return next((number for number in numbers if number in _CURES), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """*error* and the errors that it was raised from."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__
