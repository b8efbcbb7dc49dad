"""Type on a guest's console."""

from __future__ import annotations

import os
import select

from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import HypervisorExited, XhyveError

_TYPE_SECONDS = 10.0


def type_on_console(console: int, data: bytes, name: str, seconds: float = _TYPE_SECONDS) -> None:
    """Write *data* to the descriptor *console*, the host's end of the console of guest *name*.

    Args:
        console: a descriptor, which does not block from now on.
        data: what to type.
        name: the guest's name, for messages.
        seconds: how long the guest may take to read it.

    Raises:
        XhyveError: nothing in the guest reads it.
        HypervisorExited: the other end is closed.
    """
    end = monotonic() + seconds
    left = memoryview(data)
    try:
        os.set_blocking(console, False)
        writable = select.poll()
        writable.register(console, select.POLLOUT)
        while left:
            # Unlike select(2), poll(2) takes descriptors of any number.
            if not writable.poll(max(0.0, end - monotonic()) * 1000):
                raise XhyveError(f"guest {name} does not take what is typed on its console: nothing there reads it")
            left = left[os.write(console, left) :]
    except (OSError, ValueError) as error:
        # A closed socket has the descriptor -1, which is not a valid one.
        raise HypervisorExited(f"cannot write to the serial port of guest {name}: {error}") from error
