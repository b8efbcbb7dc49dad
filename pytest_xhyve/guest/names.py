"""Give a guest its own names, where the plugin does not write the kernel's command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_xhyve.guest.root_shell import root_shell
from pytest_xhyve.model.errors import XhyveError

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest

# proc(5), machine-id(5)
_LINES = """
echo {name} >/proc/sys/kernel/hostname || exit
if [ -e /etc/machine-id ]; then echo {machine_id} >/etc/machine-id; fi
"""


def set_names(guest: Guest, timeout: float) -> None:
    """Set the host name and the machine id of *guest*, which may have those of its image.

    Args:
        guest: a running guest.
        timeout: the limit, in seconds.

    Raises:
        XhyveError: the guest refused.
    """
    try:
        root_shell(guest, timeout)(_LINES.format(name=guest.name, machine_id=guest.machine.uuid.hex), b"")
    except XhyveError as error:
        raise XhyveError(f"cannot set the host name and the machine id of guest {guest.name}: {error}") from error
