"""paramiko's transport, made fit for several threads that ask the server at once."""

from __future__ import annotations

import threading
from typing import Any

import paramiko


class SerialTransport(paramiko.Transport):
    """A transport that sends one global request (RFC 4254, section 4) after the other.

    paramiko keeps the answer of the last one only, without a check whom it is for. So the answer to a keepalive could
    become the one to a request for a port, and the other way round.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._asking = threading.Lock()
        super().__init__(*arguments, **options)

    def global_request(self, kind: str, data: Any = None, wait: bool = True) -> paramiko.Message | None:
        """See `paramiko.Transport.global_request`; ends when the connection ends."""
        if not wait:
            return super().global_request(kind, data, wait)
        with self._asking:
            return super().global_request(kind, data, wait)
