"""What OpenSSH needs to know to log in to a guest."""

from __future__ import annotations

from pathlib import Path

from pytest_xhyve.hypervisors.base import Endpoint
from pytest_xhyve.model.image import Image

CONFIG = "ssh_config"
_PORT = 22


def host_block(name: str, endpoint: Endpoint, image: Image, folder: Path) -> str:
    """A Host block for OpenSSH's configuration (ssh_config(5)), under *name*; host keys are checked by it.

    Args:
        name: the guest's.
        endpoint: where its SSH server answers.
        image: tells the keys, and who logs in.
        folder: the guest's, which gets a file with the host keys.
    """
    place = endpoint.host if endpoint.port == _PORT else f"[{endpoint.host}]:{endpoint.port}"
    known_hosts = folder / "known_hosts"
    known_hosts.write_text("".join(f"{place} {key}\n" for key in image.host_keys))
    settings = {
        "HostName": endpoint.host,
        "Port": endpoint.port,
        "User": image.user,
        "IdentityFile": f'"{image.key}"',
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": f'"{known_hosts}"',
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
    }
    return f"Host {name}\n" + "".join(f"  {key} {value}\n" for key, value in settings.items())


def login_command(name: str, block: str, folder: Path) -> tuple[str, ...]:
    """The command line that logs in to the guest *name*.

    Args:
        name: the guest's.
        block: its Host block.
        folder: the guest's, which gets a file with it.
    """
    config = folder / CONFIG
    config.write_text(block)
    return ("ssh", "-F", str(config), name)
