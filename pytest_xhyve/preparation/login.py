"""How the plugin gets into the system of a disk: root's key, and host keys that are known before the first login."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pytest_xhyve.images.keys import KeyPair
from pytest_xhyve.images.manifest import Manifest
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.machine import SSH_PORT
from pytest_xhyve.model.text import printable
from pytest_xhyve.model.values import suggest
from pytest_xhyve.preparation.facts import Facts
from pytest_xhyve.preparation.new_file import NewFile

_LOOPBACK = re.compile(r"127\.|\[?::1\b|localhost\b")


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


@dataclass(frozen=True, slots=True)
class StatedLogin:
    """What the user states about the login; what is not stated is found out.

    Attributes:
        user: logs in by a key or password of the disk's own; None for root by the plugin's key.
        by: what that user has.
        host_keys: the public host keys, or none.
        may_be_new: whether the system may create the user when it boots, as cloud-init does.
    """

    user: str | None = None
    by: Literal["key", "password"] = "key"
    host_keys: tuple[str, ...] = ()
    may_be_new: bool = False

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """What *manifest* states."""
        values = manifest.values
        by: Literal["key", "password"] = "key"
        if manifest.own_user is not None and "key" not in values:
            by = "password"
        return cls(manifest.own_user, by, values.get("host_keys", ()), may_be_new="seed" in values)


def check_login(facts: Facts, stated: StatedLogin = StatedLogin()) -> None:
    """Check that the plugin can log in to the system, as far as its files show that.

    Raises:
        ImageError: the system has no SSH server, or one that the user cannot log in to; the message names the line.
    """
    if not facts.ssh_server:
        raise ImageError(
            f"{facts.system} on this disk has no SSH server, and the plugin uses guests by SSH\n"
            "  install one in it (openssh-server, or dropbear), and shut it down"
        )
    user = stated.user or "root"
    if stated.user is not None and not stated.may_be_new:
        _check_user(facts, user, stated.by)
    if facts.ssh_server == "openssh":
        _check_sshd(facts, user, stated.by, new=stated.may_be_new)
        _check_address(facts)


def plan_login(facts: Facts, client: KeyPair, stated: StatedLogin = StatedLogin()) -> Login:
    """Root's login by the plugin's own key, or the stated one; the disk's host keys, or a new one if it has none.

    Raises:
        ImageError: as `check_login`.
    """
    check_login(facts, stated)
    files = []
    if stated.host_keys:
        found = stated.host_keys
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
    if stated.user is None:
        path = f"{facts.root_home}/.ssh/authorized_keys"
        if facts.ssh_server == "openssh":
            path = _authorized_keys(facts) or path
        files.append(NewFile(path.lstrip("/"), f"\n{client.public}\n".encode(), 0o600, append=True))
    return Login(stated.user or "root", found, tuple(files))


def _check_user(facts: Facts, user: str, by: str) -> None:
    """Raise `ImageError` if the disk has no such *user*, or one without a password to log in by."""
    names = [line.partition(":")[0] for line in facts.text("etc/passwd").splitlines()]
    if user not in names:
        known = ", ".join(printable(each.name) for each in facts.users) or "none"
        raise ImageError(f"this disk has no user {user}{suggest(user, tuple(names))}\n  users who may log in: {known}")
    state = next((each.password for each in facts.users if each.name == user), "set")
    if by == "password" and state != "set":
        reason = "the password is locked" if state == "locked" else "there is no password, and SSH asks for one"
        raise ImageError(
            f"user {user} of this disk cannot log in by password: {reason}\n"
            "  give a key by --xhyve-key, or leave --xhyve-user out: then the plugin logs in as root by its own key"
        )


def _check_sshd(facts: Facts, user: str, by: str, *, new: bool) -> None:
    """Raise `ImageError` if OpenSSH's configuration keeps *user* out (sshd_config(5)).

    Args:
        facts: what was found on the disk.
        user: who logs in.
        by: ``key`` or ``password``.
        new: whether cloud-init may change the configuration (``ssh_pwauth``).
    """
    groups = _groups_of(facts, user)
    values = {key: value.lower() for _, _, key, value in sshd_settings(facts)}
    # Either of the two methods takes a password (RFC 4252 and RFC 4256); by default both are on.
    other = values.get("kbdinteractiveauthentication", values.get("challengeresponseauthentication", "yes"))
    for path, number, key, value in sshd_settings(facts):
        low = value.lower()
        words = value.split()
        root_refused = low in ("no", "forced-commands-only") or (
            by == "password" and low in ("prohibit-password", "without-password")
        )
        refused = (
            (key == "permitrootlogin" and user == "root" and root_refused)
            or (key == "pubkeyauthentication" and by == "key" and low == "no")
            or (key == "passwordauthentication" and by == "password" and low == "no" and other == "no" and not new)
            or (key == "allowusers" and not _names_one(words, user))
            or (key == "denyusers" and _names_one(words, user))
            or (key == "allowgroups" and not any(_names_one(words, group) for group in groups))
            or (key == "denygroups" and any(_names_one(words, group) for group in groups))
        )
        if refused:
            raise ImageError(
                f"the SSH server of this disk does not let {user} log in by {by}: "
                f"/{printable(path)}, line {number}: {key} {printable(value)}\n"
                "  change that line on the disk, and shut it down cleanly"
            )


def _check_address(facts: Facts) -> None:
    """Raise `ImageError` if OpenSSH listens on another port, or on the loopback interface only (sshd_config(5))."""
    lines = list(_sshd_lines(facts, "etc/ssh/sshd_config"))
    ports = [line for line in lines if line[2] == "port"]
    addresses = [line for line in lines if line[2] == "listenaddress"]
    # An address may have a port of its own.
    only_elsewhere = ports and all(value != str(SSH_PORT) for *_, value in ports) and not addresses
    only_loopback = addresses and all(_LOOPBACK.match(value) for *_, value in addresses)
    if only_elsewhere or only_loopback:
        path, number, key, value = (ports if only_elsewhere else addresses)[0]
        raise ImageError(
            f"the SSH server of this disk does not listen on port {SSH_PORT} of the network card: "
            f"/{printable(path)}, line {number}: {key} {printable(value)}\n"
            "  change that line on the disk, and shut it down cleanly"
        )


def _names_one(patterns: Sequence[str], name: str) -> bool:
    """Whether one of the *patterns* of sshd_config(5) is for *name*."""
    parts = (pattern.partition("@")[0] for pattern in patterns)
    return any(re.fullmatch(re.escape(one).replace(r"\*", ".*").replace(r"\?", "."), name) for one in parts)


def _groups_of(facts: Facts, user: str) -> list[str]:
    """The names of the groups of *user* (group(5))."""
    primary = {line.split(":")[0]: line.split(":")[3] for line in _records(facts, "etc/passwd", 4)}
    groups = [
        fields[0]
        for fields in (line.split(":") for line in _records(facts, "etc/group", 4))
        if fields[2] == primary.get(user) or user in fields[3].split(",")
    ]
    return groups or [user]


def _records(facts: Facts, path: str, fields: int) -> list[str]:
    return [line for line in facts.text(path).splitlines() if line.count(":") + 1 >= fields]


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
