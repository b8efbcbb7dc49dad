"""What a `Guest` can do, on each image: one guest for all of these tests, as none of them harms it."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import paramiko
import pytest
from chosen import Chosen
from warm import see_that_it_came_up_whole

from pytest_xhyve import (
    CommandFailed,
    CommandTimeout,
    Completed,
    Guest,
    NotSupported,
    WaitTimeout,
    XhyveError,
    XhyveWarning,
)

MIB = 1 << 20

pytestmark = pytest.mark.xhyve_in_make_test


@pytest.fixture
def guest(xhyve_module_guest: Guest) -> Guest:
    return xhyve_module_guest


@pytest.fixture
def folder(guest: Guest) -> Iterator[str]:
    """A new folder in the guest."""
    path = guest.run("mktemp -d").stdout.strip()
    yield path
    guest.run(["rm", "-rf", path])


def test_is_a_linux_of_its_own(guest: Guest) -> None:
    done = guest.run("uname -s")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Linux\n", "")
    assert 0 < done.duration < 30


@pytest.mark.run_under("qemu")
def test_comes_up_whole(guest: Guest) -> None:
    """The image with systemd; restored from a template, it is in test_systemd.py."""
    see_that_it_came_up_whole(guest)


def test_identity_is_the_slots(guest: Guest, hypervisor: Chosen) -> None:
    assert guest.run("cat /proc/sys/kernel/hostname").stdout.strip() == guest.name
    assert guest.run("cat /sys/class/net/e*/address").stdout.split() == [guest.mac, *guest.machine.lan_macs]
    # A machine for aarch64 has no SMBIOS without firmware, and vfkit's framework selects a UUID of its own.
    if guest.image.arch == "x86_64" and hypervisor.name != "vfkit":
        assert guest.run("cat /sys/class/dmi/id/product_uuid").stdout.strip().lower() == guest.uuid
    if not guest.image.name.startswith("tiny"):  # which has no systemd, and so none
        assert guest.run("cat /etc/machine-id").stdout.strip() == guest.uuid.replace("-", "")


def test_code_and_both_streams(guest: Guest) -> None:
    done = guest.run("echo out; echo err >&2; exit 3", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_failure_tells_all(guest: Guest) -> None:
    with pytest.raises(CommandFailed, match="code 3") as raised:
        guest.run("echo what it said; exit 3")
    assert "what it said" in str(raised.value)
    assert raised.value.completed.returncode == 3


def test_death_by_signal(guest: Guest) -> None:
    assert guest.run("kill -9 $$", check=False).returncode in (-1, 137)


def test_words_are_not_the_shells(guest: Guest) -> None:
    assert guest.run(["echo", "$HOME", "a  b", "*", "'", "é"]).stdout == "$HOME a  b * ' é\n"


def test_input(guest: Guest) -> None:
    assert guest.run("cat", input="text\n").stdout == "text\n"
    assert guest.run(["wc", "-c"], input=bytes(3 * MIB)).stdout.split()[0] == str(3 * MIB)
    assert guest.run("true", input=bytes(3 * MIB)).returncode == 0
    assert guest.run("cat").stdout == ""


def test_environment(guest: Guest) -> None:
    assert guest.run('echo "$A|$B"', env={"A": "x y", "B": "$A"}).stdout == "x y|$A\n"


def test_other_user(guest: Guest) -> None:
    user = guest.run("getent passwd 1000 || grep :1000: /etc/passwd").stdout.split(":")[0]
    assert guest.run("id -un", user=user).stdout.strip() == user
    assert guest.run('echo "$A"', user=user, env={"A": "x y"}).stdout == "x y\n"
    assert guest.run(["id", "-u"]).stdout.strip() == "0"
    with pytest.raises(CommandFailed):
        guest.run("cat /etc/shadow", user=user)


def test_bytes_that_are_no_text(guest: Guest) -> None:
    done = guest.run(r"printf 'a\377\376b'; printf '\351' >&2")
    assert os.fsencode(done.stdout) == b"a\xff\xfeb"
    assert os.fsencode(done.stderr) == b"\xe9"


def test_much_on_one_stream_while_the_other_is_open(guest: Guest) -> None:
    """8 MB fill any window many times over."""
    done = guest.run("dd if=/dev/zero bs=1M count=8 >&2 2>/dev/null; echo end", timeout=240)
    assert done.stdout == "end\n"
    assert len(done.stderr) == 8 * MIB


def test_timeout_keeps_what_came_and_ends_the_command(guest: Guest) -> None:
    start = time.monotonic()
    with pytest.raises(CommandTimeout, match=r"within 1 s[\s\S]*came before") as raised:
        guest.run("echo came before; exec sleep 4321", timeout=1)
    assert time.monotonic() - start < 5
    assert raised.value.completed.stdout == "came before\n"
    guest.wait_for("! ps -ef 2>/dev/null | grep -v grep | grep 'sleep 432[1]'", timeout=20)


def test_ssh_is_a_connected_client(guest: Guest) -> None:
    assert isinstance(guest.ssh, paramiko.SSHClient)
    assert guest.ssh is guest.ssh
    _, out, _ = guest.ssh.exec_command("echo $((6 * 7))")
    assert out.read() == b"42\n"


def test_lost_connection_is_made_again(guest: Guest) -> None:
    before = guest.ssh
    before.close()
    assert guest.run("echo again").stdout == "again\n"
    assert guest.ssh is not before


def test_commands_at_once(guest: Guest) -> None:
    """More than the 10 sessions of OpenSSH on one connection. Dropbear 2022.83 may exit if several end at once."""
    count, pause = (4, 0.3) if guest.image.name.startswith("tiny") else (16, 0.0)
    done: list[Completed] = []
    threads = [
        threading.Thread(target=lambda n=n: done.append(guest.run(f"sleep {0.2 + n * pause}; echo {n}")))
        for n in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(result.stdout) for result in done) == list(range(count))


def test_put_and_get_a_file(guest: Guest, folder: str, tmp_path: Path) -> None:
    content = os.urandom(2 * MIB + 17)
    local = tmp_path / "a file"
    local.write_bytes(content)
    local.chmod(0o750)
    guest.put(local, f"{folder}/sub/it is here")
    assert guest.run(["stat", "-c", "%a %u %s", f"{folder}/sub/it is here"]).stdout == f"750 0 {len(content)}\n"
    guest.put(local, folder)
    guest.put(str(local), f"{folder}/")
    guest.get(f"{folder}/a file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    guest.run(["ln", "-s", "a file", f"{folder}/link"])
    guest.get(f"{folder}/link", tmp_path / "through a link")
    assert (tmp_path / "through a link").read_bytes() == content
    (tmp_path / "into").mkdir()
    guest.get(f"{folder}/a file", tmp_path / "into")
    assert (tmp_path / "into" / "a file").read_bytes() == content


def test_put_and_get_a_folder(guest: Guest, folder: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep" / "empty").mkdir(parents=True)
    (tree / "deep" / "file").write_text("text")
    (tree / "link").symlink_to("deep/file")
    (tree / ("long" * 40)).write_text("long")
    guest.put(tree, f"{folder}/there")
    assert guest.run(["cat", f"{folder}/there/link"]).stdout == "text"
    guest.get(f"{folder}/there", tmp_path / "back")
    assert (tmp_path / "back" / "link").readlink() == Path("deep/file")
    assert (tmp_path / "back" / "deep" / "empty").is_dir()
    assert (tmp_path / "back" / ("long" * 40)).read_text() == "long"


def test_get_what_is_not_there(guest: Guest, tmp_path: Path) -> None:
    with pytest.raises(XhyveError, match=r"cannot get /no/such: no such file or folder"):
        guest.get("/no/such", tmp_path)
    with pytest.raises(FileNotFoundError):
        guest.put(tmp_path / "no", "/tmp")


def test_put_where_none_can_be(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(XhyveError, match=r"cannot put .*file to /proc/x/y"):
        guest.put(tmp_path / "file", "/proc/x/y")


def test_get_leaves_out_what_is_not_a_file_or_leads_elsewhere(guest: Guest, folder: str, tmp_path: Path) -> None:
    guest.run(f"cd {folder} && mkdir -p r/1 && echo one >r/1/f && ln -s $PWD/r/1 current && ln -s /etc out && mkfifo p")
    with pytest.warns(XhyveWarning, match=rf"get {folder} from guest {guest.name}: left out .*") as caught:
        guest.get(folder, tmp_path / "back")
    (line,) = (str(each.message) for each in caught)
    name = Path(folder).name
    assert f"{name}/out (a link to /etc)" in line
    assert f"{name}/p (a FIFO)" in line
    assert (tmp_path / "back" / "current" / "f").read_text() == "one\n"
    assert not (tmp_path / "back" / "out").is_symlink()


def test_get_is_not_merged_through_a_link(guest: Guest, folder: str, tmp_path: Path) -> None:
    """When a folder comes where a link is, nothing is written through the link."""
    (tmp_path / "victim").write_text("mine")
    guest.run(f"cd {folder} && mkdir logs && ln -s .. logs/x")
    with pytest.warns(XhyveWarning, match="x .a link to ..."):
        guest.get(f"{folder}/logs", tmp_path)
    (tmp_path / "logs" / "x").symlink_to("..")
    guest.run(f"cd {folder} && rm logs/x && mkdir logs/x && echo evil >logs/x/victim")
    guest.get(f"{folder}/logs", tmp_path)
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "logs" / "x" / "victim").read_text() == "evil\n"


def test_get_what_has_no_size(guest: Guest, tmp_path: Path) -> None:
    guest.get("/proc/version", tmp_path)
    assert (tmp_path / "version").read_text() == guest.run("cat /proc/version").stdout
    with pytest.raises(XhyveError, match="files in /proc and /sys have no size"):
        guest.get("/proc/sys/kernel", tmp_path)


def test_get_what_changes_meanwhile(guest: Guest, folder: str, tmp_path: Path) -> None:
    """GNU tar ends with code 1 then. What came is kept, and a warning states it, if tar has noticed."""
    guest.run(f"cd {folder} && dd if=/dev/urandom of=log bs=1M count=8 2>/dev/null")
    writer = "while [ ! -e stop ]; do echo more >>log; date >$$.$((n += 1)); rm -f $$.$((n - 3)); done; touch stopped"
    guest.run(f"cd {folder}; ({writer}) >/dev/null 2>&1 &")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            guest.get(folder, tmp_path / "back")
    finally:
        guest.run(f"cd {folder}; touch stop; until [ -e stopped ]; do sleep 0.1; done")
    assert (tmp_path / "back" / "log").stat().st_size >= 8 * MIB
    assert all("changed during the copy" in str(each.message) for each in caught)


@pytest.mark.long
@pytest.mark.thorough_under("xhyve")
def test_get_keeps_holes(guest: Guest, folder: str, tmp_path: Path) -> None:
    guest.run(f"cd {folder} && truncate -s 48M file && echo end >>file")
    guest.get(f"{folder}/file", tmp_path)
    status = (tmp_path / "file").stat()
    assert status.st_size == 48 * MIB + 4
    assert status.st_blocks * 512 < MIB
    with (tmp_path / "file").open("rb") as file:
        file.seek(-4, os.SEEK_END)
        assert file.read() == b"end\n"


def test_wait_for(guest: Guest, folder: str) -> None:
    guest.run(f"(sleep 1; touch {folder}/there) >/dev/null 2>&1 &")
    guest.wait_for(["test", "-e", f"{folder}/there"], timeout=30)
    with pytest.raises(WaitTimeout, match=r"within 0.5 s[\s\S]*not there"):
        guest.wait_for("echo not there; false", timeout=0.5)


def test_wait_for_port(guest: Guest) -> None:
    guest.wait_for_port(22, timeout=30)
    with pytest.raises(WaitTimeout, match="nothing listened on port 4321"):
        guest.wait_for_port(4321, timeout=0.5)


def test_forward(guest: Guest) -> None:
    guest.run("(echo hello | nc -l -p 8080 >/dev/null 2>&1 || echo hello | nc -l 8080) >/dev/null 2>&1 &")
    host, port = guest.forward(8080)
    assert host == guest.host
    assert guest.forward(8080) == (host, port)

    def banner() -> bytes:
        with socket.create_connection(guest.forward(22), timeout=20) as connection:
            return connection.recv(4)

    assert banner() == b"SSH-"


def test_pause_and_resume(guest: Guest, hypervisor: Chosen) -> None:
    guest.run("true")
    if hypervisor.name == "xhyve":
        with pytest.raises(NotSupported, match="QEMU and hyperkit can"):
            guest.pause()
        return
    guest.pause()
    with pytest.raises(CommandTimeout):
        guest.run("true", timeout=1)
    guest.resume()
    assert guest.run("echo on", timeout=60).stdout == "on\n"


# vfkit's console is a device whose driver is loaded later.
@pytest.mark.run_under("qemu", "warm", "xhyve")
def test_console_has_every_byte_from_the_first(guest: Guest) -> None:
    first = "Booting Linux on" if guest.image.arch == "aarch64" else "Linux version"
    assert first in guest.console.text.splitlines()[0]
    guest.run("echo a word from inside >/dev/console")
    guest.console.wait_for("a word from inside", timeout=20)


def test_console_can_be_typed_on(guest: Guest) -> None:
    guest.console.wait_for(r"login: |activate this console|# $", timeout=60)
    before = len(guest.console.text)
    guest.console.send("nobody\n")
    guest.wait_for("true")
    end = time.monotonic() + 20
    while len(guest.console.text) == before:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_openssh_takes_its_configuration(guest: Guest, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(guest.ssh_config())
    done = subprocess.run(
        ["ssh", "-F", str(config), guest.name, "cat", "/proc/sys/kernel/hostname"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, guest.name, "")
    known_hosts = next(line for line in guest.ssh_config().splitlines() if " UserKnownHostsFile" in line)
    other = Path(known_hosts.split('"')[1])
    other.write_text(other.read_text().replace("AAAA", "AAAB"))
    refused = subprocess.run(["ssh", "-F", str(config), guest.name, "true"], check=False, capture_output=True)
    assert refused.returncode == 255


def test_only_this_host_reaches_it(guest: Guest, hypervisor: Chosen) -> None:
    if hypervisor.name == "qemu":
        assert guest.host == "127.0.0.1"
        listening = subprocess.run(
            ["ss", "-Hlnt", f"sport = :{guest.port}"], check=True, capture_output=True, text=True
        ).stdout
        assert [line.split()[3] for line in listening.splitlines()] == [f"127.0.0.1:{guest.port}"]
    else:
        # On vmnet's own network, which ends at this host.
        assert ip_address(guest.host) in ip_network("192.168.64.0/24")
        assert guest.port == 22


def test_kernel_modules_load(guest: Guest) -> None:
    guest.run("modprobe dummy && ip link add dummy7 type dummy && ip link del dummy7")


def test_starting_twice_is_refused(guest: Guest) -> None:
    with pytest.raises(XhyveError, match="is already running"):
        guest.start()
