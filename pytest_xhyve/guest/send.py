"""Send data to the standard input of a command in a guest."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from pytest_xhyve.guest.connection import Connection, supervise
from pytest_xhyve.guest.shell import ShellLine
from pytest_xhyve.guest.streams import Input, Output, failure, running
from pytest_xhyve.model.errors import XhyveError

if TYPE_CHECKING:
    import paramiko

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
    send_stream(connection, line, what, partial(write_archive, fill))


def send_stream(connection: Connection, line: ShellLine, what: str, write: Callable[[Input], None]) -> None:
    """Run *line*, and send to its standard input what *write* writes; otherwise like `send_archive`."""
    with running(connection, line, what) as (channel, check):
        feed(connection, channel, Output(connection, channel, check), check, what, write)


def feed(
    connection: Connection,
    channel: paramiko.Channel,
    output: Output,
    check: Callable[[], None],
    what: str,
    write: Callable[[Input], None],
) -> None:
    """Send what *write* writes to the command that runs in *channel*, and wait until the command has ended.

    Raises:
        XhyveError: the command failed, or the guest did not take all.
        TimeoutError: the guest stood still.
    """
    refused: OSError | None = None
    try:
        supervise(lambda: write(Input(connection, channel)), check)
    except TimeoutError:
        raise
    except OSError as error:
        refused = error
    channel.shutdown_write()
    code, messages = output.result()
    if code != 0:
        raise failure(what, code, messages)
    if refused is not None:
        raise XhyveError(f"cannot {what}: {refused}") from refused


def write_archive(fill: Callable[[tarfile.TarFile], None], stream: Input) -> None:
    """Write the tar archive with the members that *fill* adds to *stream*.

    Files that another process removes meanwhile are left out, such as those of a byte-code cache.
    """
    with _Archive.open(fileobj=cast(Any, stream), mode="w|", format=tarfile.GNU_FORMAT, bufsize=_CHUNK) as archive:
        fill(archive)


class _Archive(tarfile.TarFile):
    """An archive to which a folder can be added while its files come and go."""

    def add(self, name: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        # `TarFile.add` calls itself for what is in a folder. It opens a file before it writes its header.
        try:
            super().add(name, *args, **kwargs)
        except FileNotFoundError:
            if os.path.lexists(name):
                raise
