"""More than one host: images are sent over ssh, to hosts with a real sshd and cache folders of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import other_plugins
import pytest
import yaml
from ssh_hosts import Hosts, ssh_hosts, why_not
from waiting import becomes
from warm import fleet_of

from pytest_xhyve.host.home import HOME_VARIABLE, Home

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

PLUGIN = (sys.executable, "-m", "pytest_xhyve.cli")
_SECONDS = 400


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


@pytest.mark.thorough
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


def suite(folder: Path, content: str) -> None:
    """A checkout of the suite on a host."""
    folder.mkdir()
    (folder / "test_suite.py").write_text(content)
    # The workers are started over ssh, and see no PYTEST_ADDOPTS.
    (folder / "pytest.ini").write_text(f"[pytest]\naddopts = {other_plugins.WITHOUT}\n")


def tx(hosts: Hosts, number: int, folder: Path, python: str = sys.executable) -> str:
    return f"--tx=ssh={hosts.hosts[number].name}//ssh_config={hosts.ssh_config}//python={python}//chdir={folder}"


def run_tests(hosts: Hosts, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--dist=load", "-v", *options]
    return subprocess.run(
        hosts.command(*argv),
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env={**os.environ, HOME_VARIABLE: str(Home.of_user().path)},
    )


GUESTS = """
import os
import pytest

@pytest.mark.parametrize("number", range(4))
def test_guest(xhyve_module_guest, number):
    assert xhyve_module_guest.run("uname -s").stdout == "Linux\\n"
    home = os.environ["PYTEST_XHYVE_HOME"]
    assert str(xhyve_module_guest.image.disk).startswith(home)
    with open(os.path.join(home, "ran"), "a") as file:
        file.write(f"{number}\\n")
"""


@pytest.mark.thorough
def test_run_over_two_hosts(hosts: Hosts, tmp_path: Path) -> None:
    """Each host gets the image before its worker starts, and has its own cache folder and guests."""
    for number in range(3):
        suite(tmp_path / str(number), GUESTS)
    each = [tx(hosts, number, tmp_path / str(number)) for number in range(2)]
    done = run_tests(hosts, tmp_path / "2", *each, "--xhyve-image=tiny", "--xhyve-start=cold")
    assert "4 passed" in done.stdout, done.stdout
    ran = [(host.home.path / "ran").read_text().split() for host in hosts.hosts]
    assert all(ran)
    assert sorted(ran[0] + ran[1]) == ["0", "1", "2", "3"]
    assert "xhyve: sending tiny to host2: disk.img, 1 GiB" in done.stdout
    # The hosts' own tiny stays what it was: there is none.
    assert not (hosts.hosts[1].home.path / "images" / "tiny.yaml").exists()


@pytest.mark.parametrize(
    ("python", "message"),
    [
        (("--python", "/usr/bin/python3 -I"), "ended there with exit code 127"),
        (("--python", "/nowhere; touch /tmp/x"), "ended there with exit code 127"),
        ((), "`pytest-xhyve receive` ended there with exit code 127"),
    ],
)
@pytest.mark.thorough
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


@pytest.mark.parametrize(
    ("python", "message"),
    [
        (
            "/usr/bin/python3",
            r"*cannot bring the images to host1: host1: /usr/bin/python3 has not the same*",
        ),
        ("/nowhere/python", r"ERROR: --tx: cannot start a worker (*): a host was not reached, or has not the Python*"),
    ],
)
@pytest.mark.thorough
def test_run_over_a_host_without_the_plugin(hosts: Hosts, tmp_path: Path, python: str, message: str) -> None:
    for number in range(2):
        suite(tmp_path / str(number), GUESTS)
    done = run_tests(hosts, tmp_path / "1", tx(hosts, 0, tmp_path / "0", python), "--xhyve-image=tiny")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert any(fnmatch(line, message) for line in done.stdout.splitlines()), done.stdout
    assert "INTERNALERROR" not in done.stdout


SLOW = """
import os, time
import pytest

@pytest.mark.parametrize("number", range(20))
def test_slow(number):
    open(os.path.join(os.path.dirname(__file__), "begun"), "w").close()
    time.sleep(0.5)
"""


@pytest.mark.thorough
def test_host_that_goes_away_during_the_run(tmp_path: Path) -> None:
    for number in range(3):
        suite(tmp_path / str(number), SLOW)
    (tmp_path / "hosts").mkdir()
    with ssh_hosts(tmp_path / "hosts", 2) as hosts:
        each = [tx(hosts, number, tmp_path / str(number)) for number in range(2)]
        argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--dist=load", *each]
        with (tmp_path / "output").open("w+") as output:
            with subprocess.Popen(hosts.command(*argv), cwd=tmp_path / "2", stdout=output, stderr=output) as process:
                begun = tmp_path / "1" / "begun"
                assert becomes(lambda: begun.exists() or process.poll() is not None, _SECONDS)
                assert process.poll() is None, (tmp_path / "output").read_text()
                pids = run(hosts, "ip", "netns", "pids", hosts.hosts[1].namespace, home=Home.of_user()).stdout.split()
                for pid in pids:
                    os.kill(int(pid), signal.SIGKILL)
                assert process.wait(_SECONDS) == pytest.ExitCode.TESTS_FAILED
            output.seek(0)
            shown = output.read()
    assert "Exit: a host of --tx went away during the run, and its worker cannot start again (host2)" in shown, shown
    assert "INTERNALERROR" not in shown
    assert "node down" in shown
