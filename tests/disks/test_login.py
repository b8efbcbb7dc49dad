"""Each disk from elsewhere by its own login: a user whom cloud-init makes, and one with a password for SSH and sudo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from homes import KNOWN, share
from warm import is_warm

from disks.trees import PASSWORD, USER
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.digests import digest_of
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.keys import KeyPair, client_key
from pytest_xhyve.model.secret import Secret
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

# A preparation and a start of a whole distribution.
pytestmark = pytest.mark.timeout(1200)
# Templates stay out: they would outlive the prepared disk.
_SHARED = (*KNOWN, "images", "keys")


@pytest.fixture
def disk(xhyve_image: str, request: pytest.FixtureRequest) -> Path:
    """The disk of the run, if the test is about it."""
    disk = Path(xhyve_image)
    if disk.stem != request.param:
        pytest.skip(f"it is about the disk {request.param}, which make test-images names")
    return disk


@contextmanager
def guest_of(home: Home, disk: Path, **settings: Any) -> Iterator[Guest]:
    given = Settings(hypervisor="qemu", images=(str(disk),), **settings)
    with closing(Fleet(given, home)) as fleet:
        yield fleet.start(ForegroundRequest(GuestSpec()))


@pytest.mark.parametrize("disk", ["cloud"], indirect=True)
def test_user_of_the_users_own_data_for_cloud_init(disk: Path, tmp_path: Path) -> None:
    before = digest_of(disk)
    own, host = KeyPair.generate(), KeyPair.generate()
    key = tmp_path / "own_key"
    key.write_bytes(own.private)
    key.chmod(0o600)
    seed = tmp_path / "seed"
    seed.mkdir()
    user = {"name": "maker", "sudo": "ALL=(ALL) NOPASSWD:ALL", "shell": "/bin/sh", "ssh_authorized_keys": [own.public]}
    data = {
        "users": [user],
        "ssh_keys": {"ed25519_private": host.private.decode(), "ed25519_public": host.public},
        "runcmd": [["touch", "/made-by-cloud-init"]],
    }
    (seed / "user-data").write_text(f"#cloud-config\n{yaml.safe_dump(data)}")
    home = share(Home.of_user(), tmp_path / "home", _SHARED)
    with guest_of(home, disk, start="cold", seed=seed, user="maker", key=key) as guest:
        # The plugin knew the host key before cloud-init wrote it, and accepts no other one.
        assert guest.image.host_keys == (host.public,)
        assert (
            guest.run("cat /etc/ssh/ssh_host_ed25519_key.pub", user="root").stdout.split()[:2]
            == host.public.split()[:2]
        )
        assert guest.run("id -un; test -e /made-by-cloud-init").stdout == "maker\n"
        # cloud-init writes root's file for the users that it makes; the plugin's key is not in it.
        keys = guest.run("cat /root/.ssh/authorized_keys", check=False, user="root").stdout
        assert client_key(home.folder("keys"))[1].public not in keys
        guest.shutdown()
    assert digest_of(disk) == before


@pytest.mark.parametrize("disk", ["installed"], indirect=True)
def test_user_with_a_password_for_which_sudo_asks(disk: Path, tmp_path: Path) -> None:
    before = digest_of(disk)
    home = share(Home.of_user(), tmp_path / "home", _SHARED)
    with guest_of(home, disk, start="warm", user=USER, password=Secret(PASSWORD)) as guest:
        assert is_warm(guest)
        assert guest.run("id -un").stdout == f"{USER}\n"
        assert guest.run("sudo -n true", check=False).returncode == 1
        assert guest.run("id -un; cat", user="root", input="typed").stdout == "root\ntyped"
        # The plugin's key is nowhere.
        assert guest.run("cat /root/.ssh/authorized_keys", check=False, user="root").returncode == 1
        guest.reboot()
        assert guest.run("id -un", user="root").stdout == "root\n"
    assert digest_of(disk) == before
