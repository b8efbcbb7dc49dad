"""More than one host: images are sent over ssh, to hosts with a real sshd and cache folders of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ssh_hosts import Hosts, ssh_hosts, why_not
from warm import fleet_of

from pytest_xhyve.host.home import HOME_VARIABLE, Home

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

PLUGIN = (sys.executable, "-m", "pytest_xhyve.cli")
_SECONDS = 150


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with ssh_hosts(tmp_path_factory.mktemp("hosts"), 2) as hosts:
        yield hosts


def run(hosts: Hosts, *argv: str, home: Home) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        hosts.command(*argv),
        check=False,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        stdin=subprocess.DEVNULL,
        env={**os.environ, HOME_VARIABLE: str(home.path)},
    )


def send(hosts: Hosts, image: str, number: int, *options: str) -> subprocess.CompletedProcess[str]:
    host = hosts.hosts[number].name
    argv = ("send", image, host, "--ssh-config", str(hosts.ssh_config), *options)
    return run(hosts, *PLUGIN, *argv, home=Home.of_user())


def test_image_is_sent(hosts: Hosts) -> None:
    sent = send(hosts, "tiny", 0, "--python", sys.executable)
    assert (sent.returncode, "sending tiny to host1: disk.img, 1 GiB" in sent.stderr) == (0, True), sent.stderr
    manifest = Path(sent.stdout.strip())
    assert manifest.is_relative_to(hosts.hosts[0].home.path)
    key = manifest.parent / yaml.safe_load(manifest.read_text())["key"]
    assert key.stat().st_mode & 0o777 == 0o600
    again = send(hosts, "tiny", 0, "--python", sys.executable)
    assert (again.stdout, "disk.img" in again.stderr) == (sent.stdout, False)
    with fleet_of(hosts.hosts[0].home, [], start="cold") as fleet:
        assert fleet.catalog.find("tiny").disk.parent == manifest.parent


@pytest.mark.parametrize(
    ("python", "message"),
    [
        (("--python", "/usr/bin/python3 -I"), "ended there with exit code 127"),
        (("--python", "/nowhere; touch /tmp/x"), "ended there with exit code 127"),
        ((), "`pytest-xhyve receive` ended there with exit code 127"),
    ],
)
def test_host_without_the_plugin(hosts: Hosts, python: tuple[str, ...], message: str) -> None:
    sent = send(hosts, "tiny", 1, *python)
    assert sent.returncode != 0
    assert message in sent.stderr, sent.stderr
    assert "install the same version of pytest-xhyve there" in sent.stderr


def test_host_that_is_not_there(hosts: Hosts) -> None:
    argv = ("send", "tiny", "10.91.1.77", "--ssh-config", str(hosts.ssh_config))
    sent = run(hosts, *PLUGIN, *argv, home=Home.of_user())
    assert (sent.returncode != 0, "ssh failed; its message is above" in sent.stderr) == (True, True), sent.stderr


def test_host_that_is_an_option(hosts: Hosts, tmp_path: Path) -> None:
    sent = run(hosts, *PLUGIN, "send", "--", "tiny", f"-oProxyCommand=touch {tmp_path}/x", home=Home.of_user())
    assert (sent.returncode, "is not a host" in sent.stderr) == (2, True), sent.stderr
    assert not (tmp_path / "x").exists()
