"""A disk that was made to mislead: each decision about it is made, or refused in our words, whatever is on it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from pytest_xhyve.images.keys import KeyPair
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.preparation.facts import Facts, Root
from pytest_xhyve.preparation.kernel import choose_cmdline, choose_kernel
from pytest_xhyve.preparation.likely_causes import likely_causes
from pytest_xhyve.preparation.login import plan_login, sshd_settings
from pytest_xhyve.preparation.network import configured_names, plan_network
from pytest_xhyve.preparation.system import check_system

CLIENT = KeyPair.generate()
HUGE = "9" * 5000
ROOT = Root("/dev/vdb1", "ext4", "")
words = st.text(max_size=8) | st.sampled_from(["0", "²", "٣", HUGE, "-1", "root", "/", "..", "x" * 300, "%h"])
KEYS = ["elf", "architecture", "table", "size", "boot_code", "efi", "user", "dirty", "there", "boot", "os"]
values = st.dictionaries(
    st.sampled_from(KEYS), st.lists(st.lists(words, max_size=4).map(" ".join), min_size=1, max_size=4).map(tuple)
)
PATHS = [
    *("etc/passwd", "etc/shadow", "etc/group", "etc/os-release", "etc/fstab", "etc/hostname", "etc/kernel/cmdline"),
    *("etc/ssh/sshd_config", "etc/ssh/sshd_config.d/a.conf", "etc/ssh/ssh_host_rsa_key.pub", "etc/default/dropbear"),
    *("etc/default/grub", "boot/grub/grub.cfg", "boot/grub2/grub.cfg", "boot/loader/entries/a.conf"),
    *("boot/extlinux/extlinux.conf", "etc/network/interfaces", "etc/netplan/a.yaml", "etc/systemd/network/a.network"),
    *("etc/NetworkManager/system-connections/a.nmconnection", "etc/sysconfig/network-scripts/ifcfg-eth0"),
]
MEANT = ["linux", "menuentry", "{", "}", "Port", "root=", "Match", "address", ":", "AuthorizedKeysFile", "Include"]
lines = st.lists(st.lists(words | st.sampled_from(MEANT), max_size=6).map(" ".join)).map("\n".join)
files = st.dictionaries(st.sampled_from(PATHS), st.binary(max_size=200) | lines.map(os.fsencode), max_size=6)


@given(values, files)
@example({"boot": ("vmlinuz-²", "vmlinuz-1")}, {})
@example({"user": (f"root {HUGE} set /bin/sh",), "elf": ("ELF",), "architecture": (HUGE,)}, {})
@example({"size": (f"/dev/vdb {HUGE}",)}, {})
def test_any_disk(values: dict[str, tuple[str, ...]], files: dict[str, bytes]) -> None:
    facts = Facts((), (ROOT,), (), values, files)
    for name in dir(Facts):
        if isinstance(getattr(Facts, name), property):
            getattr(facts, name)
    for decide in (
        lambda: choose_kernel(facts),
        lambda: choose_cmdline(facts),
        lambda: plan_login(facts, CLIENT),
        lambda: list(sshd_settings(facts)),
        lambda: plan_network(facts),
        lambda: configured_names(facts),
        lambda: check_system(facts, Path("disk.img")),
        lambda: likely_causes(facts),
    ):
        with contextlib.suppress(XhyveError):
            decide()


@given(st.text())
def test_any_lines_of_the_helper(text: str) -> None:
    facts = Facts.parse(text)
    for volume in facts.volumes:
        facts.size_of(volume)
