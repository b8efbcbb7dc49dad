from __future__ import annotations

from dataclasses import replace

import pytest
from facts import facts_of

from pytest_xhyve.images.keys import KeyPair
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.preparation.facts import Facts
from pytest_xhyve.preparation.login import Login, StatedLogin, plan_login

CLIENT = KeyPair.generate()
SSHD = ("usr/sbin/sshd",)
PUBLIC = KeyPair.generate().public


def test_host_keys_of_the_disk_are_kept() -> None:
    facts = facts_of(
        there=(*SSHD, "etc/ssh/ssh_host_ed25519_key"),
        files={"etc/ssh/ssh_host_ed25519_key.pub": f"{PUBLIC} root@machine\n".encode()},
    )
    login = plan_login(facts, CLIENT)
    assert (login.user, login.host_keys) == ("root", (PUBLIC,))
    (keys,) = login.files
    assert (keys.path, keys.mode, keys.append) == ("root/.ssh/authorized_keys", 0o600, True)
    assert keys.content.decode().split("\n")[1] == CLIENT.public


def test_public_half_alone_is_not_a_host_key() -> None:
    facts = facts_of(there=SSHD, files={"etc/ssh/ssh_host_ed25519_key.pub": f"{PUBLIC}\n".encode()})
    login = plan_login(facts, CLIENT)
    assert login.host_keys != (PUBLIC,)
    assert {file.path: file.mode for file in login.files if "ssh_host" in file.path} == {
        "etc/ssh/ssh_host_ed25519_key": 0o600,
        "etc/ssh/ssh_host_ed25519_key.pub": 0o644,
    }


def test_keys_go_where_the_server_looks() -> None:
    config = b"# AuthorizedKeysFile none\nAuthorizedKeysFile /etc/keys/%u .ssh/authorized_keys\n"
    files = plan_login(facts_of(there=SSHD, files={"etc/ssh/sshd_config": config}), CLIENT).files
    assert "etc/keys/root" in [file.path for file in files]


def test_no_server() -> None:
    with pytest.raises(ImageError, match="Debian on this disk has no SSH server"):
        plan_login(facts_of(), CLIENT)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ("Port 22\nPermitRootLogin no\n", "line 2: permitrootlogin no"),
        ("PubkeyAuthentication no", "line 1: pubkeyauthentication no"),
        ("AllowUsers alice bob", "line 1: allowusers alice bob"),
        ("DenyUsers r??t", "line 1: denyusers r"),
        ("AllowGroups ssh", "line 1: allowgroups ssh"),
    ],
)
def test_line_that_keeps_root_out_is_named(config: str, line: str) -> None:
    facts = facts_of(there=SSHD, files={"etc/ssh/sshd_config": config.encode()})
    with pytest.raises(ImageError, match=f"/etc/ssh/sshd_config, {line}"):
        plan_login(facts, CLIENT)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ("# Port 22\nPort 2222\nPort 2223", "line 2: port 2222"),
        ("ListenAddress 127.0.0.1\nListenAddress [::1]:22", "line 1: listenaddress 127.0.0.1"),
        ("listenaddress=localhost", "line 1: listenaddress localhost"),
    ],
)
def test_line_that_keeps_the_server_from_the_network_is_named(config: str, line: str) -> None:
    facts = facts_of(there=SSHD, files={"etc/ssh/sshd_config": config.encode()})
    with pytest.raises(ImageError, match=f"does not listen on port 22 .*/etc/ssh/sshd_config, {line}"):
        plan_login(facts, CLIENT)


@pytest.mark.parametrize(
    "config",
    [
        "Port 2222\nPort 22",
        "ListenAddress 127.0.0.1\nListenAddress 0.0.0.0",
        "PermitRootLogin prohibit-password",
        "#PermitRootLogin no",
        "PermitRootLogin yes\nPermitRootLogin no",
        "AllowUsers ro*",
        "Match User alice\nPermitRootLogin no",
    ],
)
def test_lines_that_let_root_in(config: str) -> None:
    assert plan_login(facts_of(there=SSHD, files={"etc/ssh/sshd_config": config.encode()}), CLIENT).user == "root"


PASSWD = b"root:x:0:0::/root:/bin/sh\njoe:x:1000:1000::/home/joe:/bin/sh\n"
GROUP = b"joe:x:1000:\nstaff:x:50:ann,joe\n"


def login_of(stated: StatedLogin, config: str = "", users: str = "user\tjoe 1000 set /bin/sh") -> Login:
    facts = facts_of(
        there=SSHD, files={"etc/passwd": PASSWD, "etc/group": GROUP, "etc/ssh/sshd_config": config.encode()}
    )
    found = Facts.parse(users)
    return plan_login(replace(facts, values={**facts.values, **found.values}), CLIENT, stated)


def test_own_login_leaves_the_disk_without_our_key() -> None:
    login = login_of(StatedLogin("joe", "password", (PUBLIC,)))
    assert (login.user, login.host_keys, login.files) == ("joe", (PUBLIC,), ())


@pytest.mark.parametrize(
    ("stated", "config", "users", "message"),
    [
        (StatedLogin("jo", "key"), "", "", r"no user jo; did you mean joe\?"),
        (StatedLogin("joe", "password"), "", "user\tjoe 1000 locked /bin/sh", "cannot log in by password: .* locked"),
        (StatedLogin("joe", "password"), "", "user\tjoe 1000 none /bin/sh", "there is no password, and SSH asks"),
        (StatedLogin("joe", "key"), "AllowGroups wheel", "", "let joe log in by key: .*line 1: allowgroups wheel"),
        (StatedLogin("root", "password"), "PermitRootLogin prohibit-password", "", "let root log in by password"),
        (
            StatedLogin("joe", "password"),
            "KbdInteractiveAuthentication no\nPasswordAuthentication no",
            "",
            "line 2: passwordauthentication no",
        ),
    ],
)
def test_own_login_that_cannot_work(stated: StatedLogin, config: str, users: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        login_of(stated, config, users)


@pytest.mark.parametrize(
    "config", ["AllowGroups st*", "PermitRootLogin no", "PubkeyAuthentication no", "PasswordAuthentication no"]
)
def test_own_login_that_works(config: str) -> None:
    assert login_of(StatedLogin("joe", "password"), config).user == "joe"


def test_user_of_the_seed_may_be_new() -> None:
    assert login_of(StatedLogin("new", "key", may_be_new=True)).user == "new"


def test_included_files_come_first() -> None:
    files = {
        "etc/ssh/sshd_config": b"Include /etc/ssh/sshd_config.d/*.conf\nPermitRootLogin yes\n",
        "etc/ssh/sshd_config.d/50-cloud.conf": b"\nPermitRootLogin no\n",
    }
    with pytest.raises(ImageError, match=r"50-cloud\.conf, line 2"):
        plan_login(facts_of(there=SSHD, files=files), CLIENT)
