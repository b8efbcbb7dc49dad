"""Public bug reports of people who drive machines over SSH, tried as tests of this plugin; each names its report."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from pytest_xhyve import Guest, XhyveError

pytestmark = [pytest.mark.xhyve(image="tiny"), pytest.mark.run_under("warm"), pytest.mark.thorough]

NAMES = ("a:b", "-rf", "$(id)", "new\nline", "`x`", "*", "Blå", " lead", "trail ", "\\", '"', "%s", "~")


@pytest.fixture
def guest(xhyve_module_guest: Guest) -> Guest:
    return xhyve_module_guest


def test_background_process_holds_no_command(guest: Guest) -> None:
    """int128/gradle-ssh-plugin#231, jenkinsci/publish-over-ssh-plugin#230."""
    begin = time.monotonic()
    guest.run("nohup sleep 300 >/dev/null 2>&1 &")
    guest.run("sleep 301 & echo $!", timeout=60)
    assert time.monotonic() - begin < 60


def test_any_name_of_a_file(guest: Guest, tmp_path: Path) -> None:
    """jimradford/superputty#551, invernizzi/vagrant-scp#14 and #23, darkoperator/Posh-SSH#535."""
    source = tmp_path / "a b'; rm -rf $HOME; '"
    (source / "Folder(Name) ü ¡").mkdir(parents=True)
    for name in NAMES:
        (source / "Folder(Name) ü ¡" / name).write_text(name)
    guest.put(source, "/root/x y/")
    guest.get("/root/x y", tmp_path / "back")
    found = [path for path in (tmp_path / "back").rglob("*") if path.is_file()]
    assert {path.name: path.read_text() for path in found} == {name: name for name in NAMES}


def test_shell_that_prints_when_it_starts(guest: Guest, tmp_path: Path) -> None:
    """ansible/ansible#2268, mscdex/ssh2#509, PowerShell/Win32-OpenSSH#2271."""
    files = ("/etc/profile.d/x.sh", "/root/.profile", "/root/.bashrc", "/root/.ashrc")
    for file in files:
        guest.put(b"echo hello\n", file)
    try:
        assert guest.run("echo out").stdout == "out\n"
        guest.put(b"content", "/root/file")
        guest.get("/root/file", tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == b"content"
        assert guest.run("cat", input="x", user="root").stdout == "x"
    finally:
        guest.run(["rm", *files])


def test_ssh_configuration_of_the_user_is_not_used(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """harvester/tests#1060, yboetz/pyznap#14, ContainerCraft/Kargo#73."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "no-agent"))
    own = tmp_path / ".ssh"
    own.mkdir()
    (own / "config").write_text("Host *\n  Port 1\n  User nobody\n  ProxyCommand false\n")
    (own / "id_rsa").write_text("garbage")
    (own / "known_hosts").write_text(f"[127.0.0.1]:{guest.port} ssh-ed25519 {'A' * 68}\n")
    guest.ssh.close()
    assert guest.run("echo well").stdout == "well\n"
    done = subprocess.run(
        [*guest.ssh_command(), "echo", "client"], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stdout) == (0, "client\n"), done.stderr


def test_command_that_reads_its_standard_input(guest: Guest) -> None:
    """steelbrain/node-ssh#341."""
    assert guest.run("cat; read x; echo end", timeout=60).stdout == "end\n"


def test_command_that_closes_its_streams_or_is_killed(guest: Guest) -> None:
    """A kind of report on many SSH clients: an exit code that does not come."""
    assert guest.run("exec >&- 2>&-; exit 3", check=False, timeout=60).returncode == 3
    assert guest.run("kill -9 $$", check=False, timeout=60).returncode != 0


def test_file_system_of_the_guest_is_full(guest: Guest) -> None:
    """A kind of report on many tools that copy: the error must be that of the guest."""
    guest.run("mkdir -p /mnt/small && mount -t tmpfs -o size=256k none /mnt/small")
    with pytest.raises(XhyveError, match=r"cannot put contents to /mnt/small/f: .*No space left on device"):
        guest.put(bytes(1 << 20), "/mnt/small/f")
    guest.run("umount /mnt/small")


def test_clock_of_the_guest_jumps_and_the_guest_is_frozen(guest: Guest) -> None:
    """NordSecurity/libtelio#1893: what waits must not follow the guest's clock, and what is thawed answers."""
    guest.run("date -s '2031-01-01 00:00:00'")
    assert guest.run("echo x", timeout=60).stdout == "x\n"
    guest.wait_for("true", timeout=30)
    guest.pause()
    time.sleep(2)
    guest.resume()
    assert guest.run("echo back", timeout=60).stdout == "back\n"


def test_no_warning_of_an_unknown_host_key(guest: Guest, recwarn: pytest.WarningsRecorder) -> None:
    """pytest-dev/pytest-testinfra#27: it was in the JUnit file."""
    guest.ssh.close()
    guest.run("true")
    assert not [warning for warning in recwarn if "host key" in str(warning.message)]


def test_dead_guest_does_not_break_the_next_test(guest: Guest) -> None:
    """NordSecurity/libtelio#1893: one failed test became 27 errors."""
    guest.kill()
    with pytest.raises(XhyveError, match=r"is off; start\(\) starts it"):
        guest.run("true")
    guest.start()
    assert guest.run("echo up").stdout == "up\n"
