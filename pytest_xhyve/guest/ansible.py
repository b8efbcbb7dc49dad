"""An inventory by which Ansible reaches guests.

Source: "How to build your inventory" and the ssh connection plugin in Ansible's documentation.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol


class _Guest(Protocol):
    """The part of `pytest_xhyve.Guest` that this module uses."""

    @property
    def name(self) -> str: ...

    def ssh_command(self) -> tuple[str, ...]: ...


def write_inventory(path: Path, guests: Iterable[_Guest]) -> None:
    """Write an inventory in YAML with *guests*; it is right until they restart or are removed.

    Ansible finds all about the login in the file that `Guest.ssh_command` names, so that OpenSSH checks host keys.

    Raises:
        OSError: the file cannot be written.
        XhyveError: a guest is off.
    """
    import yaml  # noqa: PLC0415

    hosts = {}
    for guest in guests:
        _, *options, _ = guest.ssh_command()
        hosts[guest.name] = {
            "ansible_ssh_common_args": shlex.join(options),
            # Without a warning about the interpreter that it has found.
            "ansible_python_interpreter": "auto_silent",
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
