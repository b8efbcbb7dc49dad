"""Send an image to another host, and receive it there: only the files that the other host does not have.

The sender describes the image. The receiver answers which files it lacks. Each of them follows in compressed pieces,
and an empty message ends it. The receiver confirms each piece, so that neither host holds much of a file in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol, cast

from pytest_xhyve.formats.compression import DamagedFile, decompressed
from pytest_xhyve.formats.pieces import Pieces
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.pipe_wire import Disconnected
from pytest_xhyve.images.exchange import compressed
from pytest_xhyve.images.exported import ExportedImage
from pytest_xhyve.images.exporting import Export
from pytest_xhyve.images.importing import find_imported, give_name, importing
from pytest_xhyve.model.errors import ImageError, XhyveError
from pytest_xhyve.model.text import printable
from pytest_xhyve.model.values import format_size

PROTOCOL = 1
"""The version of the messages; a change that an older plugin does not understand raises it."""

_CONFIRMED = b"."
_WINDOW = 8
_PIECE = 1 << 20
_SILENT_SECONDS = 600.0

Report = Callable[[str], None]


class Wire(Protocol):
    """A connection that keeps messages apart."""

    def send(self, message: bytes) -> None:
        """Send *message*.

        Raises:
            Disconnected: it cannot be sent.
        """

    def receive(self) -> bytes:
        """The next message.

        Raises:
            Disconnected: none came.
        """


def send_image(export: Export, wire: Wire, host: str, report: Report, *, name: bool) -> str:
    """Send *export* to the host at the other end of *wire*.

    Args:
        export: the image.
        wire: the connection, with `receive_image` at its other end.
        host: the name of the other host, for messages.
        report: called with a line for each file.
        name: whether the image's name stands for it on the other host from now on.

    Returns:
        the path of the image's manifest there.

    Raises:
        XhyveError: the connection ended, or the other host reports an error.
        OSError: a file cannot be read.
    """
    wire.send(json.dumps({"protocol": PROTOCOL, "image": export.image.to_dict(), "name": name}).encode())
    missing = _answer(wire, host)["missing"]
    sizes = {file.sha256: file.size for file in export.image.files.values()}
    for sha256 in missing:
        content = export.contents[sha256]
        report(f"sending {export.image.name} to {host}: {content.path.name}, {format_size(sizes[sha256])}")
        _send_pieces(wire, compressed(content.pieces()), host)
    manifest = str(_answer(wire, host)["manifest"])
    if missing:
        report(f"{host} has {export.image.name} now")
    return printable(manifest)


def receive_image(wire: Wire, home: Home) -> None:
    """Import the image that `send_image` sends at the other end of *wire* into the cache folder *home*.

    An error is sent to the other end, as far as that can be reached.
    """
    try:
        _receive(wire, home)
    except Disconnected:
        # The sender is gone, and nothing was imported.
        return
    except (XhyveError, OSError, DamagedFile) as error:
        wire.send(json.dumps({"error": str(error)}).encode())


def receive_over_channel(channel: Channel) -> None:
    """As `receive_image`, into the cache folder of this user, over a *channel* of execnet."""
    try:
        home = Home.of_user()
    except XhyveError as error:
        channel.send(json.dumps({"error": str(error)}).encode())
        return
    receive_image(ChannelWire(channel), home)


class Channel(Protocol):
    """The part of a channel of execnet that this module uses."""

    def send(self, item: object) -> None: ...

    def receive(self, timeout: float | None = None) -> Any: ...


class ChannelWire:
    """A `Wire` over a *channel* of execnet."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def send(self, message: bytes) -> None:
        try:
            self._channel.send(message)
        except OSError as error:
            raise Disconnected(f"the connection has ended: {_last_line(error)}") from error

    def receive(self) -> bytes:
        try:
            message = self._channel.receive(_SILENT_SECONDS)
        # execnet has errors of its own, and is not imported where it is not used.
        except Exception as error:
            raise Disconnected(f"the connection has ended: {_last_line(error)}") from error
        if not isinstance(message, bytes):
            raise Disconnected("it sent something else than messages")
        return message


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return printable(lines[-1]) if lines else type(error).__name__


def _receive(wire: Wire, home: Home) -> None:
    request = json.loads(wire.receive())
    if request.get("protocol") != PROTOCOL:
        raise ImageError("this host has another version of pytest-xhyve: install the same one on both hosts")
    image = ExportedImage.from_dict(request["image"])
    with importing(image, home, lambda _: None) as importer:
        found = find_imported(image, home)
        missing = () if found is not None else importer.missing()
        wire.send(json.dumps({"missing": missing}).encode())
        for sha256 in missing:
            importer.add(sha256, decompressed(cast("IO[bytes]", Pieces(_incoming(wire))), "zstd"))
        imported = importer.publish() if found is None else found
    if request["name"]:
        give_name(image, home)
    wire.send(json.dumps({"manifest": str(imported.manifest)}).encode())


def _send_pieces(wire: Wire, pieces: Iterator[bytes], host: str) -> None:
    waiting = 0
    for piece in pieces:
        for begin in range(0, len(piece), _PIECE):
            if waiting == _WINDOW:
                _confirm(wire, host)
                waiting -= 1
            wire.send(piece[begin : begin + _PIECE])
            waiting += 1
    wire.send(b"")
    for _ in range(waiting):
        _confirm(wire, host)


def _confirm(wire: Wire, host: str) -> None:
    message = wire.receive()
    if message != _CONFIRMED:
        _check_answer(message, host)
        raise XhyveError(f"{host} sent something else than a confirmation: {message[:100]!r}")


def _answer(wire: Wire, host: str) -> dict[str, Any]:
    return _check_answer(wire.receive(), host)


def _check_answer(message: bytes, host: str) -> dict[str, Any]:
    """The answer in *message*.

    Raises:
        XhyveError: it is an error, or is not an answer.
    """
    try:
        answer = json.loads(message)
    except ValueError as error:
        raise XhyveError(f"{host} sent something else than an answer: {message[:100]!r}") from error
    if not isinstance(answer, dict):
        raise XhyveError(f"{host} sent something else than an answer: {message[:100]!r}")
    if "error" in answer:
        raise XhyveError(printable(f"{host}: {answer['error']}"))
    return answer


def _incoming(wire: Wire) -> Iterator[bytes]:
    """The compressed content of one file, which ends with an empty message."""
    while piece := wire.receive():
        wire.send(_CONFIRMED)
        yield piece
