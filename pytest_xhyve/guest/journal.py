"""Read a guest's journal, for the report of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_xhyve.guest.root_shell import root_shell
from pytest_xhyve.model.errors import XhyveError

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest


def read_journal(guest: Guest, since: float | None, *, max_bytes: int, timeout: float) -> str:
    """The guest's journal, or the kernel's messages if it has none, or the reason why neither can be read.

    Args:
        guest: the guest; it may be off.
        since: the time from which on it is read, in seconds since the epoch; None for all of this boot.
        max_bytes: how much of its end to read.
        timeout: the limit in seconds.
    """
    if not guest.is_healthy():
        return "(cannot read the guest's journal: the guest does not respond)\n"
    begin = "" if since is None else f" --since=@{since:.0f}"
    line = (
        f"{{ journalctl --no-pager --quiet --boot --output=short-precise{begin} 2>/dev/null || dmesg; }} "
        f"| tail -c {max_bytes}"
    )
    try:
        # A guest whose programs lie sends more.
        return root_shell(guest, timeout)(line, b"")[-max_bytes:] or "(nothing)\n"
    except XhyveError as error:
        return f"(cannot read the guest's journal: {error})\n"
