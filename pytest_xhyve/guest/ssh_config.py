"""The files from which OpenSSH learns how to log in to a guest."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_xhyve.hypervisors.base import Endpoint
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import SSH_PORT
from pytest_xhyve.model.values import short_repr

CONFIG = "ssh_config"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def known_hosts_name(endpoint: Endpoint) -> str:
    """The name of *endpoint* in a file of host keys (sshd(8)): ``HOST``, or ``[HOST]:PORT`` if the port is not 22."""
    return endpoint.host if endpoint.port == SSH_PORT else f"[{endpoint.host}]:{endpoint.port}"


def host_block(name: str, endpoint: Endpoint, image: Image, folder: Path) -> str:
    """A Host block for OpenSSH's configuration (ssh_config(5)); with it, OpenSSH checks the host key.

    Args:
        name: the guest's name, and the block's.
        endpoint: the address of the guest's SSH server.
        image: has the keys and the user.
        folder: the guest's folder, which gets a file with the host keys.

    Raises:
        ConfigurationError: a value is not one line.
    """
    known_hosts = folder / "known_hosts"
    known_hosts.write_text("".join(f"{known_hosts_name(endpoint)} {key}\n" for key in image.host_keys))
    settings = {
        "HostName": endpoint.host,
        "Port": endpoint.port,
        "User": image.user,
        **_login_settings(image),
        "UserKnownHostsFile": _quoted(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
    }
    lines = [f"Host {name}", *(f"  {key} {value}" for key, value in settings.items())]
    # OpenSSH runs programs that its configuration names.
    if any(_CONTROL.search(line) for line in lines):
        raise ConfigurationError(f"cannot write OpenSSH's configuration: {short_repr(chr(10).join(lines))}")
    return "".join(f"{line}\n" for line in lines)


def block_name(config: Path) -> str:
    """The name in the file *config*, which `login_command` wrote."""
    return config.read_text().split()[1]


def _quoted(path: Path) -> str:
    # OpenSSH expands tokens that begin with a percent sign.
    return '"' + str(path).replace("%", "%%") + '"'


def _login_settings(image: Image) -> dict[str, str]:
    if image.key is not None:
        return {"IdentityFile": _quoted(image.key), "IdentitiesOnly": "yes", "BatchMode": "yes"}
    # OpenSSH asks for the password at the terminal, or by SSH_ASKPASS.
    return {
        "PubkeyAuthentication": "no",
        "PreferredAuthentications": "password,keyboard-interactive",
        "NumberOfPasswordPrompts": "1",
    }


def login_command(name: str, block: str, folder: Path) -> tuple[str, ...]:
    """The command line that logs in to the guest *name*.

    Args:
        name: the guest's name.
        block: its Host block.
        folder: the guest's folder, which gets a file with the block.
    """
    config = folder / CONFIG
    config.write_text(block)
    return ("ssh", "-F", str(config), name)
