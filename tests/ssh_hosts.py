"""Other hosts: network namespaces, in each of which a real sshd runs, with a cache folder of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from waiting import becomes

from pytest_xhyve.host.home import HOME_VARIABLE, Home

_SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
_SECONDS = 30.0


@dataclass(frozen=True)
class Host:
    """A host.

    Attributes:
        name: how ssh finds it.
        namespace: the name of its network namespace.
        home: its cache folder.
        sshd: its SSH server.
    """

    name: str
    namespace: str
    home: Home
    sshd: subprocess.Popen[bytes]


@dataclass(frozen=True)
class Hosts:
    """Several hosts, and one from which ssh reaches them.

    Attributes:
        client: the name of the network namespace from which they can be reached.
        ssh_config: how ssh finds them.
        hosts: the hosts.
    """

    client: str
    ssh_config: Path
    hosts: tuple[Host, ...]

    def command(self, *argv: str) -> list[str]:
        """*argv*, run where the hosts can be reached."""
        return ["ip", "netns", "exec", self.client, *argv]


def why_not() -> str | None:
    """Why no hosts can be made here, or None."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "only root may make network namespaces"
    missing = [name for name in ("ip", "ssh", "ssh-keygen") if shutil.which(name) is None]
    missing += [] if _SSHD else ["sshd"]
    if missing:
        return f"not installed: {', '.join(missing)}"
    probe = f"probe-{secrets.token_hex(4)}"
    done = subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        return done.stderr.strip()
    _run("ip", "netns", "del", probe)
    return None


@contextmanager
def ssh_hosts(folder: Path, count: int, environment: Sequence[str] = ()) -> Iterator[Hosts]:
    """Make *count* hosts; their files are in *folder*.

    Args:
        folder: an empty folder.
        count: how many.
        environment: variables that each session has, as ``NAME=VALUE``.
    """
    assert _SSHD is not None
    # sshd wants it, and Debian makes it when it boots.
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with ExitStack() as stack:
        mark = secrets.token_hex(3)
        client = stack.enter_context(_namespace(f"xh-{mark}-0"))
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "user"))
        config, known, hosts = [], [], []
        for number in range(1, count + 1):
            namespace = stack.enter_context(_namespace(f"xh-{mark}-{number}"))
            ours, theirs = f"v{mark}{number}a", f"v{mark}{number}b"
            _run("ip", "link", "add", ours, "netns", client, "type", "veth", "peer", "name", theirs, "netns", namespace)
            for place, device, end in ((client, ours, 1), (namespace, theirs, 2)):
                _run("ip", "-n", place, "address", "add", f"10.91.{number}.{end}/24", "dev", device)
                _run("ip", "-n", place, "link", "set", device, "up")
            home = Home(folder / f"home-{number}")
            sshd = stack.enter_context(_sshd(folder, number, namespace, [f"{HOME_VARIABLE}={home.path}", *environment]))
            hosts.append(Host(f"host{number}", namespace, home, sshd))
            known.append(f"10.91.{number}.2 {(folder / f'host-{number}.pub').read_text()}")
            config.append(f"Host host{number}\n HostName 10.91.{number}.2\n")
        (folder / "known").write_text("".join(known))
        common = f" User root\n IdentityFile {folder / 'user'}\n IdentitiesOnly yes\n BatchMode yes\n"
        common += f" UserKnownHostsFile {folder / 'known'}\n StrictHostKeyChecking yes\n ConnectTimeout 5\n"
        (folder / "ssh_config").write_text("".join(config) + "Host *\n" + common)
        made = Hosts(client, folder / "ssh_config", tuple(hosts))
        for host in hosts:
            assert becomes(lambda host=host: _answers(made, host), _SECONDS)  # type: ignore[misc]
        yield made


@contextmanager
def _namespace(name: str) -> Iterator[str]:
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        _run("ip", "netns", "del", name)


@contextmanager
def _sshd(folder: Path, number: int, namespace: str, environment: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    key = folder / f"host-{number}"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    config = folder / f"sshd-{number}.conf"
    config.write_text(
        f"ListenAddress 10.91.{number}.2\nHostKey {key}\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder / 'user.pub'}\nPermitRootLogin prohibit-password\n"
        f"SetEnv {' '.join(environment)}\n"
    )
    argv = ["ip", "netns", "exec", namespace, str(_SSHD), "-D", "-e", "-f", str(config)]
    with (folder / f"sshd-{number}.log").open("wb") as log, subprocess.Popen(argv, stderr=log) as process:
        try:
            yield process
        finally:
            process.terminate()


def _answers(hosts: Hosts, host: Host) -> bool:
    argv = hosts.command("ssh", "-F", str(hosts.ssh_config), host.name, "true")
    return subprocess.run(argv, check=False, capture_output=True, timeout=_SECONDS).returncode == 0


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)
