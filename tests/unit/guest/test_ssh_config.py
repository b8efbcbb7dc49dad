"""What the plugin writes into configuration files of OpenSSH."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from fake_images import write_image

from pytest_xhyve.guest.ssh_config import host_block, login_command
from pytest_xhyve.hypervisors.base import Endpoint
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.model.errors import ConfigurationError

PLACE = Endpoint("127.0.0.1", 2222)


def settings_of(command: tuple[str, ...]) -> dict[str, str]:
    """What OpenSSH would use."""
    done = subprocess.run([command[0], "-G", *command[1:]], check=True, capture_output=True, text=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


@pytest.mark.parametrize("user", ["root", "DOMAIN\\name", "name@example.org", "häns", "machine$", "9lives"])
def test_openssh_logs_in_as_the_user(tmp_path: Path, user: str) -> None:
    image = read_manifest(write_image(tmp_path, user=user))
    command = login_command("web-0", host_block("web-0", PLACE, image, tmp_path), tmp_path)
    found = settings_of(command)
    assert (found["user"], found["port"], found["stricthostkeychecking"]) == (user, "2222", "true")


@pytest.mark.parametrize("user", ["root\n  ProxyCommand touch x", "root\rProxyCommand touch x", "root\0"])
def test_no_value_becomes_a_setting(tmp_path: Path, user: str) -> None:
    """OpenSSH runs programs that its configuration names. A manifest or a bundle cannot state such a user."""
    image = replace(read_manifest(write_image(tmp_path)), user=user)
    with pytest.raises(ConfigurationError, match="cannot write OpenSSH's configuration"):
        host_block("web-0", PLACE, image, tmp_path)
