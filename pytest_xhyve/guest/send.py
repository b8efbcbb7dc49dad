"""Send a tar archive to a command in a guest."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from typing import Any, cast

from pytest_xhyve.guest.connection import Connection, supervise
from pytest_xhyve.guest.shell import ShellLine
from pytest_xhyve.guest.streams import Input, Output, failure, running
from pytest_xhyve.model.errors import XhyveError

_CHUNK = 1 << 17


def send_archive(connection: Connection, line: ShellLine, what: str, fill: Callable[[tarfile.TarFile], None]) -> None:
    """Run *line*, which reads a tar archive from its standard input, and send it the archive that *fill* writes.

    Args:
        connection: the connection to the guest.
        line: the command.
        what: what is done, for errors, such as ``put a to b``.
        fill: adds the members; it may raise an `OSError` about a file of the host.

    Raises:
        XhyveError: the command failed, or the guest did not take the archive.
        TimeoutError: the guest stood still.
    """
    with running(connection, line, what) as (channel, check):

        def send() -> None:
            with tarfile.open(
                fileobj=cast(Any, Input(connection, channel)), mode="w|", format=tarfile.GNU_FORMAT, bufsize=_CHUNK
            ) as archive:
                fill(archive)

        refused: OSError | None = None
        try:
            supervise(send, check)
        except TimeoutError:
            raise
        except OSError as error:
            refused = error
        channel.shutdown_write()
        code, messages = Output(connection, channel, check).result()
        if code != 0:
            raise failure(what, code, messages)
        if refused is not None:
            raise XhyveError(f"cannot {what}: {refused}") from refused
