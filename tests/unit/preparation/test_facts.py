from __future__ import annotations

import pytest
from facts import facts_of


@pytest.mark.parametrize(
    ("config", "mode", "policy"),
    [
        ("SELINUX=enforcing\nSELINUXTYPE=targeted\n", "enforcing", "targeted"),
        ("# SELINUX=disabled\n\n  SELINUX = Permissive \nSELINUXTYPE=default # Debian's\n", "permissive", "default"),
        ("SELINUX=disabled\nSELINUXTYPE=default\n", "", ""),
        ("SELINUXTYPE=default\n", "", ""),
        ("SELINUX=enforcing\n", "enforcing", ""),
        # The name becomes a part of a path.
        ("SELINUX=enforcing\nSELINUXTYPE=../../tmp\n", "enforcing", ""),
        ("SELINUX=enforcing\nSELINUXTYPE=..\n", "enforcing", ""),
    ],
)
def test_selinux(config: str, mode: str, policy: str) -> None:
    facts = facts_of(there=("usr/sbin/setfiles",), files={"etc/selinux/config": config.encode()})
    assert (facts.selinux_mode, facts.selinux_policy) == (mode, policy)
    without_setfiles = facts_of(files={"etc/selinux/config": config.encode()})
    assert (without_setfiles.selinux_mode, without_setfiles.selinux_policy) == (mode, "")
