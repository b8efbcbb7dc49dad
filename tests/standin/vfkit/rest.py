"""vfkit's REST interface on a Unix socket (pkg/rest/rest.go, pkg/rest/vf/vm_config.go), as an HTTP/1.1 server."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from standin.loop import Loop
from standin.vfkit.flags import failed

MAX_PATH = 103
"""The longest path of a socket on macOS."""

_REASONS = {200: "OK", 202: "Accepted", 400: "Bad Request", 404: "Not Found", 500: "Internal Server Error"}
_CHUNK = 65536

Answer = tuple[int, object]
"""A status, and what its body is made of; None for no body."""


def socket_path(uri: str) -> str | None:
    """The path in the value of ``--restful-uri``; None if it asks for no server.

    Raises:
        Ended: vfkit does not take it.
    """
    parts = urlsplit(uri)
    if not parts.scheme:
        raise failed(f'parse "{uri}": invalid URI for request')
    path = unquote(parts.path)
    if parts.scheme not in ("none", "unix", "tcp", "http"):
        raise failed(f"invalid scheme {parts.scheme}")
    if parts.scheme in ("tcp", "http"):
        if not parts.netloc:
            raise failed("invalid TCP uri: missing host")
        if path:
            raise failed("invalid TCP uri: path is forbidden")
        if parts.port is None:
            raise failed("invalid TCP uri: missing port")
    if parts.scheme != "unix":
        return None
    if not path:
        raise failed("invalid unix uri: missing path")
    if parts.netloc:
        raise failed("invalid unix uri: host is forbidden")
    if len(os.fsencode(path)) > MAX_PATH:
        raise failed("invalid unix uri: socket path length exceeds macOS limits")
    return path


class Server:
    """Answers requests.

    Args:
        path: the socket's.
        loop: tells when there is something to read.
        answer: gets a method, a path and a body.

    Raises:
        OSError: there is something at *path*.
    """

    def __init__(self, path: str, loop: Loop, answer: Callable[[str, str, bytes], Answer]) -> None:
        self._loop = loop
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._listener.setblocking(False)
        loop.watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            connection, _ = self._listener.accept()
            received = bytearray()
            self._loop.watch(connection.fileno(), lambda: self._read(connection, received))

    def _read(self, connection: socket.socket, received: bytearray) -> None:
        data = b""
        with suppress(OSError):
            data = connection.recv(_CHUNK)
        received += data
        if not data:
            self._close(connection)
            return
        while (request := _take_request(received)) is not None:
            method, path, headers, body = request
            started = time.monotonic()
            status, content = self._answer(method, path, body)
            # gin.Default() logs each request to the standard output, which is the guest's console too.
            micros = (time.monotonic() - started) * 1e6
            now = time.strftime("%Y/%m/%d - %H:%M:%S")
            os.write(1, f'[GIN] {now} | {status} | {micros:10.3f}µs | {"@":>15} | {method:<8} "{path}"\n'.encode())
            closes = headers.get("connection", "").lower() == "close"
            with suppress(OSError):
                connection.sendall(_response(status, content, closes=closes))
            if closes:
                self._close(connection)
                return

    def _close(self, connection: socket.socket) -> None:
        self._loop.ignore(connection.fileno())
        connection.close()


def _take_request(received: bytearray) -> tuple[str, str, dict[str, str], bytes] | None:
    """Remove a whole request from the beginning of *received*."""
    head, end, rest = bytes(received).partition(b"\r\n\r\n")
    if not end:
        return None
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    size = int(headers.get("content-length", "0"))
    if len(rest) < size:
        return None
    del received[: len(head) + len(end) + size]
    method, path, _ = line.split(" ")
    return method, path, headers, rest[:size]


def _response(status: int, content: object, *, closes: bool) -> bytes:
    body = b"" if content is None else json.dumps(content, separators=(",", ":")).encode()
    kind = b"" if content is None else b"Content-Type: application/json; charset=utf-8\r\n"
    connection = b"Connection: close\r\n" if closes else b""
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\n".encode() + kind + connection
    return head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
