"""A guest as a host of testinfra: a backend that runs testinfra's commands as `Guest.run` does.

Source: testinfra 10, ``testinfra/backend/base.py``, ``backend/local.py`` and ``host.py``. Of its own backends for SSH,
``ssh`` starts a process for each command, and ``paramiko`` accepts any host key.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host

from pytest_xhyve.model.completed import Completed


class _Guest(Protocol):
    """The part of `pytest_xhyve.Guest` that this module uses."""

    @property
    def name(self) -> str: ...

    def run(self, command: str, *, check: bool) -> Completed: ...


class _GuestBackend(BaseBackend):  # type: ignore[misc]  # testinfra has no types
    NAME = "xhyve"

    def __init__(self, guest: _Guest) -> None:
        super().__init__(guest.name)
        self._guest = guest

    def run(self, command: str, *args: str, **_: Any) -> CommandResult:
        line = self.get_command(command, *args)
        done = self._guest.run(line, check=False)
        return self.result(done.returncode, line.encode(), os.fsencode(done.stdout), os.fsencode(done.stderr))


def host_of(guest: _Guest) -> Host:
    """The `testinfra.host.Host` whose commands run in *guest*."""
    backend = _GuestBackend(guest)
    host = Host(backend)
    backend.set_host(host)
    return host
