"""A second monitor of a running QEMU, for a process that did not start it."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_xhyve.formats.png import png_from_ppm
from pytest_xhyve.hypervisors.qemu.qmp import QmpClient, QmpClosed, QmpError
from pytest_xhyve.model.errors import HypervisorExited, NotSupported, XhyveError

MONITOR = "monitor.sock"
"""The socket in the folder of a guest that has a graphics card."""

_ANSWER_SECONDS = 20.0


@contextmanager
def connected(folder: Path, name: str) -> Iterator[socket.socket]:
    """A connection to the socket *name* in the *folder* of a guest; each wait on it has a limit.

    Raises:
        OSError: nothing listens there, or too many wait there already.
    """
    # A socket's path may have about 100 bytes (unix(7)); a symbolic link makes any path short enough.
    with tempfile.TemporaryDirectory(prefix="xhyve-", dir="/tmp") as short, socket.socket(socket.AF_UNIX) as channel:
        link = Path(short) / "guest"
        link.symlink_to(folder)
        channel.settimeout(_ANSWER_SECONDS)
        channel.connect(str(link / name))
        yield channel


def dump_screen(qmp: QmpClient, folder: Path, guest: str) -> bytes:
    """The contents of the screen of *guest*, as a PNG file.

    Args:
        qmp: a session with its QEMU.
        folder: a folder that QEMU may write to.
        guest: the guest's name, for messages.

    Raises:
        HypervisorExited: QEMU has exited.
        NotSupported: QEMU has no screen of it.
        XhyveError: QEMU wrote no picture.
    """
    # QEMU writes PNG only since 7.1, and only if it was built with libpng.
    with tempfile.TemporaryDirectory(dir=folder) as own:
        picture = Path(own) / "screen.ppm"
        try:
            qmp.execute("screendump", filename=str(picture))
            return png_from_ppm(picture.read_bytes())
        except QmpClosed as error:
            raise HypervisorExited(f"guest {guest} is not running any more") from error
        except QmpError as error:
            raise NotSupported(f"QEMU refused: {error}") from error
        except (OSError, ValueError) as error:
            raise XhyveError(f"QEMU did not write the screen of {guest}: {error}") from error


def dump_screen_of(folder: Path, guest: str) -> bytes:
    """The contents of the screen of a *guest* that another process has started, as a PNG file.

    Args:
        folder: the guest's folder.
        guest: its name, for messages.

    Raises:
        NotSupported: the guest has no graphics card.
        XhyveError: its QEMU does not answer.
    """
    if not (folder / MONITOR).exists():
        raise NotSupported(
            f"guest {guest} has no graphics card, so it has no screen\n"
            '  firmware="bios" or "uefi" gives a guest one, and so does graphics=True in the hook pytest_xhyve_machine'
        )
    try:
        with connected(folder, MONITOR) as channel:
            qmp = QmpClient(channel, _ANSWER_SECONDS)
            qmp.negotiate()
            return dump_screen(qmp, folder, guest)
    except (QmpClosed, OSError) as error:
        raise XhyveError(
            f"the QEMU of guest {guest} does not answer: {error}\n  another program may use its monitor; try again"
        ) from error
