"""vfkit's REST interface (pkg/rest/rest.go and pkg/rest/vf/vm_config.go in its sources), on a Unix socket.

vfkit logs each request on its standard output, which is the guest's console, too: the driver asks only if a test pauses
a guest or presses its power button.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Literal

from pytest_xhyve.model.errors import XhyveError

State = Literal["Pause", "Resume", "Stop", "HardStop"]

_ANSWER_SECONDS = 30.0
_ACCEPTED = 202


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ANSWER_SECONDS)
        self.sock.connect(str(self._path))


def change_state(path: Path, state: State) -> None:
    """Ask the vfkit whose socket is at *path* to change its machine's state.

    Raises:
        XhyveError: vfkit refuses, or does not answer; the message is its own.
    """
    connection = _UnixConnection(path)
    headers = {"Content-Type": "application/json", "Connection": "close"}
    try:
        connection.request("POST", "/vm/state", json.dumps({"state": state}), headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise XhyveError(f"vfkit does not answer on {path}: {error}") from error
    finally:
        connection.close()
    if response.status != _ACCEPTED:
        raise XhyveError(f"vfkit refuses to change the state to {state}: {_reason(content) or response.reason}")


def _reason(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return ""
