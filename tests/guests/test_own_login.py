"""Guests of a disk whose own login is used: a user with a password, sudo that asks for it, data for cloud-init."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import paramiko
import pytest
from command_line import run_separately
from foreign import copy_disk, install_sudo, make_foreign_disk, read_file, replace_file, set_password
from homes import share
from listening import Recorder
from warm import is_warm

from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.model.errors import ConnectionFailed, ImageError, XhyveError
from pytest_xhyve.model.secret import Secret
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

PASSWORD = "p$ss 'w\"rd"
VARIABLE = "PYTEST_XHYVE_PASSWORD"


@pytest.fixture(scope="module")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return share(Home.of_user(), tmp_path_factory.mktemp("own") / "home")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk whose SSH server takes root's password, and on which there is no key."""
    disk = make_foreign_disk(tmp_path_factory.mktemp("disk") / "own.img")
    set_password(disk, "root", PASSWORD)
    # Without -s, Dropbear takes passwords.
    replace_file(disk, "/etc/inittab", read_file(disk, "/etc/inittab").replace(" -s ", " ").encode())
    return disk


@pytest.fixture(scope="module")
def sudo_disk(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with a user who has a password, for which SSH and sudo ask."""
    copy = copy_disk(disk, tmp_path_factory.mktemp("disk") / "sudo.img")
    set_password(copy, "user", PASSWORD)
    install_sudo(copy, "user ALL=(ALL) ALL\n")
    return copy


@contextmanager
def guest_of(home: Home, disk: Path, said: list[str] | None = None, **settings: Any) -> Iterator[Guest]:
    given = Settings(**({"hypervisor": "qemu", "images": (str(disk),), "start": "cold"} | settings))
    with closing(Fleet(given, home, Recorder(said))) as fleet:
        yield fleet.start(ForegroundRequest(GuestSpec()))


def contains(folder: Path, text: str) -> list[Path]:
    """The files in *folder*, apart from disks and links, that contain *text*."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.suffix != ".qcow2")
    return [path for path in files if text.encode() in path.read_bytes()]


def test_user_with_a_password(own_home: Home, disk: Path) -> None:
    said: list[str] = []
    with guest_of(own_home, disk, said, user="root", password=Secret(PASSWORD)) as guest:
        assert guest.run("id -un").stdout == "root\n"
        # The plugin's key is not there.
        assert guest.run("cat /root/.ssh/authorized_keys", check=False).returncode == 1
        assert "IdentityFile" not in guest.ssh_config()
        assert PASSWORD not in f"{guest.image!r} {guest!r} {guest.ssh_config()} {said}"
        commands = subprocess.run(["ps", "-eww", "-o", "args"], check=True, capture_output=True, text=True).stdout
        assert PASSWORD not in commands
        guest.put(__file__, "/root/copy")
    assert contains(own_home.path, PASSWORD) == []


@pytest.mark.thorough
def test_wrong_password_is_one_error(own_home: Home, disk: Path) -> None:
    with (
        pytest.raises(ConnectionFailed, match=r"root may not log in at .* with the password that was given") as raised,
        guest_of(own_home, disk, user="root", password=Secret("hush"), timeout_factor=0.2, boot_timeout=600.0),
    ):
        pass
    assert "hush" not in str(raised.value)


@pytest.mark.thorough
def test_command_line_passes_the_password_on(own_home: Home, disk: Path) -> None:
    environment = {**os.environ, HOME_VARIABLE: str(own_home.path), VARIABLE: PASSWORD}
    words = ["run", "--hypervisor=qemu", "--user=root", str(disk), "id", "-un"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest_xhyve.cli", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("root\n", 0), done.stderr


def read_terminal(terminal: int) -> bytes:
    """What comes next from a terminal; nothing once its last process has closed it (pty(7))."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


# A worker of pytest-xdist has no terminal, and gets the password from the process that asks.
@pytest.mark.thorough
@pytest.mark.parametrize("answer", [f"{PASSWORD}\n", "\x04"])
def test_password_is_asked_for_at_the_terminal(
    own_home: Home, sudo_disk: Path, pytester: pytest.Pytester, answer: str
) -> None:
    pytester.makepyfile("def test_user(xhyve_guest): assert xhyve_guest.run('id -un', user='root').stdout == 'root\\n'")
    environment = {**os.environ, HOME_VARIABLE: str(own_home.path)}
    words = ["--xhyve-hypervisor=qemu", "--xhyve-start=cold", "--xhyve-user=user", f"--xhyve-image={sudo_disk}", "-n1"]
    process, terminal = pty.fork()
    if process == 0:
        os.execve(sys.executable, [sys.executable, "-m", "pytest", *words], environment)  # noqa: S606
    shown = b""
    while b"Password of user on sudo.img: " not in shown and (data := read_terminal(terminal)):
        shown += data
    os.write(terminal, answer.encode())
    while data := read_terminal(terminal):
        shown += data
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.close(terminal)
    text = shown.decode(errors="replace")
    assert PASSWORD not in text
    if answer == "\x04":
        assert code == pytest.ExitCode.USAGE_ERROR, text
        assert "user user has neither a key nor a password" in text
    else:
        assert code == pytest.ExitCode.OK, text


@pytest.mark.thorough
def test_sudo_that_asks_for_a_password(own_home: Home, sudo_disk: Path, tmp_path: Path) -> None:
    with guest_of(own_home, sudo_disk, user="user", password=Secret(PASSWORD), start="warm") as guest:
        # A template needs root for the agent.
        assert is_warm(guest)
        assert guest.run("id -un").stdout == "user\n"
        done = guest.run("id -un; cat", user="root", input="one\ntwo\n")
        assert done.stdout == "root\none\ntwo\n"
        # sudo gave its lecture when the disk was prepared.
        assert "lecture" not in done.stderr
        assert guest.run("cat", user="root").stdout == ""
        # Files that only root may write and read.
        with pytest.raises(XhyveError, match=r"(?i)permission denied"):
            guest.put(b"secret", "/etc/own")
        guest.put(b"secret", "/etc/own", user="root", mode=0o600)
        with pytest.raises(XhyveError, match=r"(?i)permission denied"):
            guest.get("/etc/own", tmp_path)
        guest.get("/etc/own", tmp_path, user="root")
        assert (tmp_path / "own").read_bytes() == b"secret"
        guest.reboot()
        guest.shutdown()


@pytest.mark.thorough
def test_sudo_that_asks_for_another_password(own_home: Home, sudo_disk: Path, tmp_path: Path) -> None:
    disk = copy_disk(sudo_disk, tmp_path / "other.img")
    # The password of root, and not of the user.
    set_password(disk, "root", "another")
    replace_file(disk, "/etc/sudoers", b"Defaults rootpw\nuser ALL=(ALL) ALL\n", 0o440)
    with (
        pytest.raises(ImageError, match=r"user user of .* cannot run commands as root: sudo: ") as raised,
        guest_of(own_home, disk, user="user", password=Secret(PASSWORD)),
    ):
        pass
    assert PASSWORD not in str(raised.value)
    assert not list(own_home.folder("prepared").glob(".*"))


@pytest.mark.thorough
def test_users_data_for_cloud_init(own_home: Home, disk: Path, tmp_path: Path) -> None:
    """As far as a system without cloud-init shows it: the files are where cloud-init looks for them."""
    cloud = copy_disk(disk, tmp_path / "cloud.img")
    replace_file(cloud, "/usr/bin/cloud-init", b"", 0o755)
    seed = tmp_path / "seed"
    seed.mkdir()
    host = f"ssh-rsa {paramiko.RSAKey.generate(2048).get_base64()}"
    (seed / "user-data").write_text(f"#cloud-config\nssh_keys:\n  rsa_public: {host}\nhostname: own\n")
    with guest_of(own_home, cloud, seed=seed) as guest:
        assert host in guest.image.host_keys
        found = guest.run("cat /var/lib/cloud/seed/nocloud/user-data").stdout
        assert found == (seed / "user-data").read_text()
        assert guest.run("ls /var/lib/cloud/seed/nocloud").stdout.split() == [
            "meta-data",
            "network-config",
            "user-data",
        ]
    (seed / "user-data").unlink()
    result = run_separately("import", str(cloud), f"--seed={seed}")
    assert "has no file user-data" in result.stderr
    with (
        pytest.raises(ImageError, match="has no cloud-init, which --xhyve-seed is for"),
        guest_of(own_home, disk, seed=seed_of(tmp_path / "other")),
    ):
        pass


def seed_of(folder: Path) -> Path:
    folder.mkdir()
    (folder / "user-data").write_text("#cloud-config\n")
    return folder
