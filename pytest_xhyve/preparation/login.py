"""How the plugin gets into the system of a disk: root's key, and host keys that are known before the first login."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_xhyve.images.keys import KeyPair
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.preparation.facts import Facts
from pytest_xhyve.preparation.new_file import NewFile


@dataclass(frozen=True, slots=True)
class Login:
    """How the plugin logs in.

    Attributes:
        user: the user.
        host_keys: the public host keys; the guest must present one of them.
        files: what has to be written for it.
    """

    user: str
    host_keys: tuple[str, ...]
    files: tuple[NewFile, ...]


def plan_login(facts: Facts, client: KeyPair, *, user: str | None = None, host_keys: Sequence[str] = ()) -> Login:
    """Root's login by the plugin's own key; the disk's host keys, or a new one if it has none.

    Args:
        facts: what was found on the disk.
        client: the plugin's key.
        user: logs in by a key or password of its own, so the plugin's key is not written; None for root and that key.
        host_keys: the keys that the user has stated; empty to find them on the disk.

    Raises:
        ImageError: the system has no SSH server, or one that the user cannot log in to; the message names the line.
    """
    if not facts.ssh_server:
        raise ImageError(
            f"{facts.system} on this disk has no SSH server, and the plugin uses guests by SSH\n"
            "  install one in it (openssh-server, or dropbear), and shut it down"
        )
    files = []
    if host_keys:
        found = tuple(host_keys)
    elif facts.ssh_server == "openssh" and facts.host_keys:
        found = facts.host_keys
    else:
        host = KeyPair.generate()
        found = (host.public,)
        if facts.ssh_server == "openssh":
            files.append(NewFile("etc/ssh/ssh_host_ed25519_key", host.private, 0o600))
            files.append(NewFile("etc/ssh/ssh_host_ed25519_key.pub", f"{host.public}\n".encode()))
        else:
            files.append(NewFile("etc/dropbear/dropbear_ed25519_host_key", host.dropbear, 0o600))
    if user is None:
        keys_path = f"{facts.root_home}/.ssh/authorized_keys"
        if facts.ssh_server == "openssh":
            _check_sshd(facts)
            keys_path = _authorized_keys(facts) or keys_path
        files.append(NewFile(keys_path.lstrip("/"), f"\n{client.public}\n".encode(), 0o600, append=True))
    return Login(user or "root", found, tuple(files))


def _check_sshd(facts: Facts) -> None:
    """Raise `ImageError` if sshd's configuration keeps root out (sshd_config(5))."""
    for path, number, key, value in sshd_settings(facts):
        refused = (
            (key == "permitrootlogin" and value.lower() in ("no", "forced-commands-only"))
            or (key == "pubkeyauthentication" and value.lower() == "no")
            or (key == "allowusers" and not _names_root(value))
            or (key == "denyusers" and _names_root(value))
            or (key == "allowgroups" and "root" not in value.split())
            or (key == "denygroups" and "root" in value.split())
        )
        if refused:
            raise ImageError(
                f"the SSH server of this disk does not let root log in by key: /{path}, line {number}: {key} {value}\n"
                "  change that line on the disk, and shut it down cleanly"
            )


def _names_root(value: str) -> bool:
    patterns = [word.partition("@")[0] for word in value.split()]
    return any(re.fullmatch(re.escape(one).replace(r"\*", ".*").replace(r"\?", "."), "root") for one in patterns)


def _authorized_keys(facts: Facts) -> str | None:
    """Where sshd looks for root's keys, if it is configured."""
    for _, _, key, value in sshd_settings(facts):
        if key == "authorizedkeysfile" and value.split() and value.split()[0].lower() != "none":
            path = value.split()[0].replace("%h", facts.root_home).replace("%u", "root").replace("%%", "%")
            return posixpath.join(facts.root_home, path)
    return None


def sshd_settings(facts: Facts) -> Iterator[tuple[str, int, str, str]]:
    """Path, line, key and value of OpenSSH's settings outside of Match blocks; the first of a key counts."""
    seen = set()
    for path, number, key, value in _sshd_lines(facts, "etc/ssh/sshd_config"):
        if key not in seen:
            seen.add(key)
            yield path, number, key, value


def _sshd_lines(facts: Facts, path: str) -> Iterator[tuple[str, int, str, str]]:
    for number, line in enumerate(facts.text(path).splitlines(), start=1):
        match = re.fullmatch(r"\s*([A-Za-z]+)(?:\s*=\s*|\s+)\"?([^#\"]*?)\"?\s*(?:#.*)?", line)
        if match is None:
            continue
        key, value = match[1].lower(), match[2]
        if key == "match":
            return
        if key == "include":
            folder = posixpath.dirname(value.lstrip("/"))
            for included in sorted(facts.files):
                if posixpath.dirname(included) == folder and included.endswith(".conf"):
                    yield from _sshd_lines(facts, included)
            continue
        yield path, number, key, value
