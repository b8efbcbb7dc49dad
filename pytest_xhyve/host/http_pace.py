"""HTTP connections with a limit on pace: a server that sends a byte now and then meets each limit on silence.

curl has the same limit (``--speed-limit``, ``--speed-time``). urllib and requests have none: theirs begins again with
each byte.
"""

from __future__ import annotations

import http.client
import io
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.values import format_size

LEAST_BYTES = 16 << 10
"""A server that sends less than this in the time of its `Pace` counts as one that does not answer."""


class TooSlow(OSError):
    """A server sends less than it must."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a server must send.

    Attributes:
        seconds: the time that is spent in waiting for the server, in which `LEAST_BYTES` must come. What the plugin
            does with the bytes meanwhile is not counted.
    """

    seconds: float

    def response_class(self) -> Callable[..., http.client.HTTPResponse]:
        """What to set as the ``response_class`` of a `http.client.HTTPConnection`, or a class that inherits it."""
        return partial(_PacedResponse, self)

    def opener(self) -> urllib.request.OpenerDirector:
        """Like that of `urllib.request.urlopen`, with the proxies of the environment."""
        return urllib.request.build_opener(_PacedHttp(self), _PacedHttps(self))


class _PacedResponse(http.client.HTTPResponse):
    def __init__(self, pace: Pace, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        # Nothing is read yet, so nothing is lost. The headers are read through it, too.
        self.fp = io.BufferedReader(_PacedReader(self.fp.detach(), pace))


class _PacedReader(io.RawIOBase):
    """*raw*, a socket's side for reading, at the pace *pace* at least."""

    def __init__(self, raw: io.RawIOBase, pace: Pace) -> None:
        self._raw = raw
        self._pace = pace
        self._waited = 0.0
        self._got = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        begin = monotonic()
        got: int | None = self._raw.readinto(buffer)
        self._waited += monotonic() - begin
        self._got += got or 0
        if got and self._waited > self._pace.seconds:
            if self._got < LEAST_BYTES:
                sent, least = self._got, format_size(LEAST_BYTES)
                raise TooSlow(f"the server sent only {sent} bytes in {self._waited:.1f} s, and {least} are expected")
            self._waited, self._got = 0.0, 0
        return got

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PacedHttp(urllib.request.HTTPHandler):
    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._connect = _connector(http.client.HTTPConnection, pace)

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._connect, req)


class _PacedHttps(urllib.request.HTTPSHandler):
    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._connect = _connector(http.client.HTTPSConnection, pace)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._connect, req)


def _connector(connection: Callable[..., http.client.HTTPConnection], pace: Pace) -> Any:
    def connect(*arguments: Any, **options: Any) -> http.client.HTTPConnection:
        made = connection(*arguments, **options)
        made.response_class = pace.response_class()  # type: ignore[assignment]  # any callable serves
        return made

    return connect
