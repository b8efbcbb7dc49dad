"""xhyve as an ordinary user runs it: by sudo, setuid, and not at all."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from standin.mac import Mac
from waiting import becomes, is_running

from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.host.privilege import sudoers_line

USER = "xhyve-user"

SUITE = """
import json, os, signal, sys
from contextlib import closing
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import live_guests
from pytest_xhyve.model.settings import Settings

home = Home.of_user()
with closing(Fleet(Settings(hypervisor="xhyve", executable=sys.argv[1]), home)) as fleet:
    try:
        with fleet.start(ForegroundRequest(GuestSpec(image="tiny"))) as guest:
            (record,) = live_guests(home.folder("runs"))
            print(json.dumps({
                "how": fleet.hypervisor.info.reason, "pid": record.pid, "host": guest.host,
                "said": guest.run("id -u").stdout, "uid": os.getuid(),
                "words": open(f"/proc/{record.pid}/cmdline").read().split("\\0"),
            }), flush=True)
            if sys.argv[2] == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if sys.argv[2] == "restart":
                guest.kill()
                guest.start()
    except XhyveError as error:
        print(json.dumps({"error": str(error)}))
"""


@pytest.fixture(scope="module")
def user(mac: Mac) -> pwd.struct_passwd:
    """A user that only this process's own /etc knows."""
    subprocess.run(["useradd", "--no-create-home", "--no-user-group", USER], check=True)
    return pwd.getpwnam(USER)


@pytest.fixture
def place(user: pwd.struct_passwd) -> Iterator[Path]:
    """A folder of the user's, with an image, and for programs."""
    place = Path(tempfile.mkdtemp(prefix="xhyve-user-", dir="/tmp"))
    home = place / "home"
    images = Home.of_user().folder("images")
    for source in (images / "tiny.yaml", *images.glob("tiny-????????????")):
        target = home / "images" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", "--sparse=always", str(source), str(target)], check=True)
    shutil.copytree(Home.of_user().folder("keys"), home / "keys")
    for path in (place, *place.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def sudoers(user: pwd.struct_passwd) -> Iterator[Path]:
    """The file in which sudo's rules for the user go."""
    path = Path("/etc/sudoers.d/xhyve-test")
    yield path
    path.unlink(missing_ok=True)


def run_as_user(user: pwd.struct_passwd, place: Path, program: Path, what: str = "live") -> list[dict[str, Any]]:
    """What the user's own run prints."""
    # He may read wherever the interpreter and the checkout are, and has no other of root's rights.
    capability = "-all,+dac_read_search"
    done = subprocess.run(
        [
            *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"),
            *(f"--inh-caps={capability}", f"--ambient-caps={capability}", "--"),
            *(sys.executable, "-c", SUITE, str(program), what),
        ],
        check=False,
        env={"PATH": os.environ["PATH"], HOME_VARIABLE: str(place / "home"), "HOME": str(place), "USER": USER},
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def rule(program: Path) -> str:
    return sudoers_line(str(program), USER) + "\n"


def test_by_sudo(mac: Mac, user: pwd.struct_passwd, place: Path, sudoers: Path) -> None:
    program = mac.install(place / "xhyve", "head")
    sudoers.write_text(rule(program))
    told, *errors = run_as_user(user, place, program, "restart")
    assert not errors
    assert told["how"] == "run by sudo"
    assert told["uid"] == user.pw_uid
    assert told["said"] == "0\n"
    # xhyve's own process is told of, not sudo's, nor one that it has started.
    assert told["words"][0] == str(program)
    assert not psutil.pid_exists(told["pid"])
    assert not list((place / "home" / "runs").iterdir())


@pytest.mark.thorough
def test_by_sudo_and_killed(mac: Mac, user: pwd.struct_passwd, place: Path, sudoers: Path) -> None:
    """The guardian ends what is root's, by the same right."""
    program = mac.install(place / "xhyve", "head")
    sudoers.write_text(rule(program))
    (told,) = run_as_user(user, place, program, "die")
    assert becomes(lambda: not is_running(told["pid"]), 5)
    assert becomes(lambda: not list((place / "home" / "runs").iterdir()), 5)


@pytest.mark.thorough
def test_setuid(mac: Mac, user: pwd.struct_passwd, place: Path) -> None:
    program = mac.install(place / "xhyve", "head", setuid=True)
    # A script's own bit does nothing in Linux, and is what the driver looks at; its interpreter's does it.
    os.chown(program, 0, 0)
    program.chmod(0o4755)
    told, *errors = run_as_user(user, place, program)
    assert not errors
    assert told["how"] == "run setuid root"
    assert told["said"] == "0\n"
    assert not psutil.pid_exists(told["pid"])
    assert not list((place / "home" / "runs").iterdir())


def test_without_a_right(mac: Mac, user: pwd.struct_passwd, place: Path, sudoers: Path) -> None:
    program = mac.install(place / "xhyve", "head")
    (told,) = run_as_user(user, place, program)
    assert "Could not create vmnet interface" in told["error"]
    assert f"{USER} ALL=(root) NOPASSWD: {program}, /bin/kill" in told["error"]
    assert f"chmod u+s {program}" in told["error"]
    # Half of it is not enough: who could start a guest and not end it would leave it behind.
    sudoers.write_text(f"{USER} ALL=(root) NOPASSWD: {program}\n")
    (told,) = run_as_user(user, place, program)
    assert "/bin/kill" in told["error"]
