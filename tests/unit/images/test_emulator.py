"""Programs for another processor run in a namespace of a build, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_xhyve.guest.agent_program import build_program
from pytest_xhyve.images.emulator import check_entry_of_host, entry_for, find_emulator
from pytest_xhyve.model.architecture import ARM64, X86_64
from pytest_xhyve.model.errors import ImageError

MODULE = [sys.executable, "-m", "pytest_xhyve.images.emulator"]
ENTRIES = Path("/proc/sys/fs/binfmt_misc")

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or find_emulator(ARM64) is None or X86_64.is_native() is False,
    reason="needs root, qemu-aarch64-static, and a host of x86-64",
)


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MODULE, *argv], check=False, capture_output=True, text=True, timeout=60)


@needs_root
def test_only_the_namespace_gets_an_entry(tmp_path: Path) -> None:
    before = sorted(ENTRIES.iterdir())
    program = tmp_path / "program"
    program.write_bytes(build_program(ARM64))
    program.chmod(0o755)
    # With F, the kernel has opened the emulator before the root file system is another one.
    script = (
        '"$1" -m pytest_xhyve.images.emulator register aarch64 && grep -q "^flags: F" /proc/sys/fs/binfmt_misc/xhyve-* '
        '&& chroot "$2" /program </dev/null && echo ran'
    )
    done = run("enter", "sh", "-c", script, "sh", sys.executable, str(tmp_path))
    if "Operation not permitted" in done.stderr:
        pytest.skip("no user namespaces here")
    assert (done.stdout, done.returncode) == ("ran\n", 0), done.stderr
    assert sorted(ENTRIES.iterdir()) == before
    if not any("aarch64" in entry.name for entry in before):
        with pytest.raises(OSError, match="Exec format error"):
            subprocess.run([str(program)], check=False, stdin=subprocess.DEVNULL)


@needs_root
def test_the_host_gets_no_entry() -> None:
    done = run("register", "aarch64")
    assert done.returncode == 1
    assert done.stderr == "this is the namespace of the host, which gets no entry\n"


def test_entry_is_that_of_debian() -> None:
    """As in /usr/share/binfmts/qemu-aarch64 of the package qemu-user-static, but for the flags."""
    assert entry_for(ARM64, "/usr/bin/qemu-aarch64-static") == (
        r":xhyve-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
        r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
        r":/usr/bin/qemu-aarch64-static:F"
    )


ENTRY = """{state}
interpreter /usr/bin/qemu-aarch64-static
flags: {flags}
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""


def test_entry_of_the_host_serves_with_the_flag_f(tmp_path: Path) -> None:
    (tmp_path / "register").touch()
    (tmp_path / "status").write_text("enabled\n")
    with pytest.raises(ImageError, match=r"the host has none for aarch64\n.*qemu-user-static.* Linux 6.7"):
        check_entry_of_host(ARM64, tmp_path)
    entry = tmp_path / "qemu-aarch64"
    entry.write_text(ENTRY.format(state="enabled", flags="OC"))
    with pytest.raises(ImageError, match=r"qemu-aarch64 of binfmt_misc has no flag F, .*/usr/bin/qemu-aarch64-static"):
        check_entry_of_host(ARM64, tmp_path)
    entry.write_text(ENTRY.format(state="disabled", flags="OCF"))
    with pytest.raises(ImageError, match="the host has none for aarch64"):
        check_entry_of_host(ARM64, tmp_path)
    entry.write_text(ENTRY.format(state="enabled", flags="OCF"))
    check_entry_of_host(ARM64, tmp_path)
    with pytest.raises(ImageError, match="the host has none for x86_64"):
        check_entry_of_host(X86_64, tmp_path)
