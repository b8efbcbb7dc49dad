from __future__ import annotations

import pytest

from pytest_xhyve.images.keys import KeyPair
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.preparation.seed import plan_seed, seed_host_keys

PUBLIC = KeyPair.generate().public


def test_users_data_is_written_as_it_is() -> None:
    seed = {"user-data": b"#!/bin/sh\n\xff", "meta-data": b"instance-id: own\n", "vendor-data": b"x"}
    files = {file.path.rpartition("/")[2]: file for file in plan_seed(seed, "version: 2\n")}
    assert {name: files[name].content for name in seed} == seed
    assert files["network-config"].content == b"version: 2\n"
    assert {files[name].mode for name in seed} == {0o600}
    assert b"ssh_deletekeys: false" in files["99-pytest-xhyve.cfg"].content


def test_host_keys_of_the_user_data_are_known() -> None:
    text = f"#cloud-config\nssh_keys:\n  ed25519_private: hush\n  ed25519_public: {PUBLIC} name\n"
    assert seed_host_keys({"user-data": text.encode()}) == (PUBLIC,)


@pytest.mark.parametrize(
    "text", [b"", b"#!/bin/sh\n", b"#cloud-config\n[", b"#cloud-config\n- a\n", b"#cloud-config\n"]
)
def test_user_data_without_host_keys(text: bytes) -> None:
    assert seed_host_keys({"user-data": text}) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [("ssh_deletekeys: true", "the plugin cannot know"), ("ssh_keys: {ed25519_private: hush}", "has no public")],
)
def test_host_keys_that_nobody_could_check(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        seed_host_keys({"user-data": f"#cloud-config\n{text}\n".encode()})
    assert "hush" not in str(raised.value)
