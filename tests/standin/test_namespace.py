"""Being a Mac without anybody noticing, and without anything being left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from waiting import becomes

from pytest_xhyve.model.image import Image
from standin import namespace
from standin.mac import Mac
from standin.running import QUICK, START_SECONDS
from standin.test_vmnet import AS_USER

GONE_SECONDS = 10.0

# Starts a guest with an interface, says so, and waits to be killed.
VICTIM = """
import subprocess, sys, pathlib
sys.path[:0] = {path!r}
from standin import namespace
from standin.mac import Mac
namespace.enter()
folder = pathlib.Path({folder!r})
with Mac(folder / "mac") as mac:
    program = mac.install(folder / "xhyve")
    running = subprocess.Popen([program, *{words!r}], stdin=subprocess.DEVNULL)
    print("started", flush=True)
    running.wait()
"""


def test_only_root_can_enter() -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}; from standin.namespace import can_enter; print(can_enter())"
    done = subprocess.run([*AS_USER, sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "only root may make namespaces with a network and mounts of their own\n"


def test_kernel_may_say_no() -> None:
    """As it does to a container's root."""
    if os.geteuid() != 0:
        pytest.skip("only root can be denied this")
    code = f"import sys; sys.path[:0] = {sys.path!r}; from standin.namespace import can_enter; print(can_enter())"
    denied = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    done = subprocess.run([*denied, sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "Operation not permitted" in done.stdout


# Writes where only root may, looks at the network, tells what it found, and waits for its input to end.
INSIDE = """
import pathlib, subprocess, sys
sys.path[:0] = {path!r}
from standin import namespace
namespace.enter()
for name in {names!r}:
    pathlib.Path(name).parent.mkdir(exist_ok=True)
    with pathlib.Path(name).open("a") as file:
        file.write("a line of the test\\n")
subprocess.run(["ip", "link", "add", "dummy4321", "type", "bridge"], check=True)
print(subprocess.check_output(["ip", "-brief", "link"]), pathlib.Path("/etc/passwd").read_bytes(), flush=True)
sys.stdin.read()
"""


def test_what_is_written_is_not_seen_outside(mac: Mac) -> None:
    names = ["/etc/passwd", "/etc/test-of-standin", "/var/db/test-of-standin", "/var/tmp/test-of-standin"]
    argv = [sys.executable, "-c", INSIDE.format(path=sys.path, names=names)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = process.stdout.readline()
        assert "a line of the test" in told
        assert "dummy4321" in told
        assert "lo " in told
        assert "bridge100" not in told
        assert not [name for name in names if Path(name).exists() and "a line of the test" in Path(name).read_text()]
        here = subprocess.run(["ip", "-brief", "address"], check=True, capture_output=True, text=True).stdout
        assert "dummy4321" not in here
        assert "127.0.0.1/8" in here
        assert "192.168.64.1/24" in here
        process.communicate()
    assert process.returncode == 0


def test_entering_again_changes_nothing(mac: Mac) -> None:
    links = [Path(f"/proc/self/ns/{kind}") for kind in ("mnt", "net")]
    before = [link.readlink() for link in links]
    namespace.enter()
    assert [link.readlink() for link in links] == before


def test_nothing_is_left_after_a_kill(mac: Mac, tiny: Image, tmp_path: Path) -> None:
    """Not even of the one who had started the stand-in, the DHCP server and the network."""
    words = ["-s", "2,virtio-net", "-f", f"kexec,{tiny.kernel},{tiny.initrd},{QUICK} rdinit=/bin/busybox -- sleep 600"]
    code = VICTIM.format(path=sys.path, folder=str(tmp_path), words=words)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"started\n"
        ours = psutil.Process(victim.pid)
        assert becomes(lambda: has(ours, "qemu-system-x86"), START_SECONDS)
        family = ours.children(recursive=True)
        stand_in = next(process for process in family if str(tmp_path / "xhyve") in process.cmdline())
        guests = stand_in.children(recursive=True)
        servers = [process for process in family if process not in [stand_in, *guests]]
        assert "dnsmasq" in {process.name() for process in servers}
        victim.kill()
    assert psutil.wait_procs(servers, GONE_SECONDS)[1] == []
    # A stand-in is a program like any other: who started it has to end it, unlike what it starts itself.
    assert stand_in.is_running()
    stand_in.kill()
    assert psutil.wait_procs([stand_in, *guests], GONE_SECONDS)[1] == []


def has(process: psutil.Process, name: str) -> bool:
    return any(child.name()[:15] == name for child in process.children(recursive=True))
