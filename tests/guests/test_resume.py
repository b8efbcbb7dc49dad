"""The guests of a failed test, saved as a bundle and resumed."""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from chosen import Chosen
from homes import KNOWN, share
from waiting import becomes

from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.host.runs import live_guests
from pytest_xhyve.images.build import build_image
from pytest_xhyve.images.manifest import read_manifest

pytest_plugins = ["pytester"]

FAILING = """
import pytest

def test_fails(xhyve_guest):
    xhyve_guest.run("echo before > /root/before; (while sleep 0.2; do date +%s >> /tmp/ticks; done) >/dev/null 2>&1 &")
    xhyve_guest.run("hostname -s 2>/dev/null || hostname")
    assert xhyve_guest.run("uname -s").stdout == "Darwin"
"""


COUNT = "cat /root/before; wc -l < /tmp/ticks; sleep 1; wc -l < /tmp/ticks"

UNPLUGGED = """
import pytest

@pytest.mark.xhyve(disks=["1M", "1M"])
def test_fails(xhyve_guest):
    xhyve_guest.run("echo kept | dd of=/dev/vdb bs=512 conv=sync,fsync")
    xhyve_guest.disks[1].unplug()
    assert False
"""


def resume(bundle: Path, *words: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({} if home is None else {HOME_VARIABLE: str(home)})}
    return subprocess.run(
        [sys.executable, "-m", "pytest_xhyve.cli", "resume", str(bundle), *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def only_bundle(folder: Path) -> Path:
    (bundle,) = folder.glob("*.xhyve")
    return bundle


@pytest.mark.run_under("warm")
def test_failed_guest_goes_on_elsewhere(pytester: pytest.Pytester, hypervisor: Chosen, tmp_path: Path) -> None:
    """In another cache folder, twice, from the moment of the failure."""
    pytester.makepyfile(test_it=FAILING)
    result = pytester.runpytest_subprocess(*hypervisor.options, "--xhyve-image=tiny", "--xhyve-save-failures=saved")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Captured log xhyve: saved guests call*", "*= saved guests =*", "tiny-*for test_it*"])
    bundle = only_bundle(pytester.path / "saved").rename(tmp_path / "moved.xhyve")
    assert bundle.stat().st_mode & 0o777 == 0o600
    assert bundle.stat().st_size < 0.3 * (256 << 20)
    elsewhere = share(Home.of_user(), tmp_path / "elsewhere", (*KNOWN, "images", "keys"))
    for _ in range(2):
        done = resume(
            bundle,
            "--",
            f"{COUNT}; date +%s",
            home=elsewhere.path,
        )
        assert done.returncode == 0, done.stderr
        assert "test_it.py::test_fails failed (call)" in done.stderr
        before, at_first, later, now = done.stdout.split()
        assert before == "before"
        assert int(later) > int(at_first)
        assert abs(int(now) - bundle.stat().st_mtime) < 600
    assert live_guests(elsewhere.folder("runs")) == []


@pytest.mark.thorough
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.run_under("warm")
def test_another_user_resumes(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    """With a cache folder of that user's own, which has the image and its key."""
    pytester.makepyfile(test_it=FAILING)
    options = (*hypervisor.options, "--xhyve-image=tiny", "--xhyve-save-failures=saved")
    pytester.runpytest_subprocess(*options).assert_outcomes(failed=1)
    user = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="xhyve-user-", dir="/tmp") as name:
        place = Path(name)
        bundle = only_bundle(pytester.path / "saved").rename(place / "moved.xhyve")
        images, ours = place / "home" / "images", Home.of_user()
        disk = read_manifest(ours.folder("images") / "tiny.yaml").disk
        images.mkdir(mode=0o700, parents=True)
        for source in (ours.folder("images") / "tiny.yaml", disk.parent):
            subprocess.run(["cp", "-r", "--sparse=always", str(source), str(images)], check=True)
        shutil.copytree(ours.folder("keys"), place / "home" / "keys")
        for path in (place, *place.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)
        # The user may read wherever the interpreter and the checkout are, and has no other of root's rights.
        capability = "-all,+dac_read_search"
        setpriv = [
            *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"),
            *(f"--inh-caps={capability}", f"--ambient-caps={capability}", "--"),
        ]
        for _ in range(2):
            done = subprocess.run(
                [*setpriv, sys.executable, "-m", "pytest_xhyve.cli", "resume", str(bundle), "--", COUNT],
                check=False,
                env={"PATH": os.environ["PATH"], HOME_VARIABLE: str(place / "home"), "HOME": str(place)},
                cwd=place,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert done.returncode == 0, done.stderr
            before, at_first, later = done.stdout.split()
            assert before == "before"
            assert int(later) > int(at_first)


@pytest.mark.thorough
@pytest.mark.run_under("warm")
@pytest.mark.parametrize(("name", "machine"), [("tiny", "x86_64"), ("tiny-aarch64", "aarch64")])
def test_image_is_in_the_bundle(
    pytester: pytest.Pytester, hypervisor: Chosen, tmp_path: Path, name: str, machine: str
) -> None:
    """And is not on the computer where the guest is resumed."""
    home = Home.of_user()
    manifest = build_image(name, home, print).manifest
    moved = tmp_path / "other" / "images"
    moved.mkdir(parents=True)
    (tmp_path / "other" / "keys").symlink_to(home.folder("keys"))
    shutil.copyfile(manifest, moved / manifest.name)
    shutil.copytree(read_manifest(manifest).disk.parent, moved / read_manifest(manifest).disk.parent.name)
    pytester.makepyfile(test_it=FAILING)
    options = (
        f"--xhyve-image={moved}/{manifest.name}",
        "--xhyve-save-failures=saved",
        "--xhyve-save-failures-with-images",
    )
    result = pytester.runpytest_subprocess(*hypervisor.options, *options)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"qemu *, 1 CPU of {machine}, 256 MiB; restored from a template, *"])
    bundle = only_bundle(pytester.path / "saved")
    shutil.rmtree(moved)
    elsewhere = share(home, tmp_path / "elsewhere", (*KNOWN, "keys"))
    for _ in range(2):
        look = "cat /root/before; wc -l < /tmp/ticks; wc -c < /bin/busybox; uname -m"
        done = resume(bundle, "--", look, home=elsewhere.path)
        assert done.returncode == 0, done.stderr
        before, ticks, size, its = done.stdout.split()
        assert (before, int(ticks) > 0, int(size) > 100_000, its) == ("before", True, True, machine)
        assert f"unpacking the image {name}, which is not here" in done.stderr
    # What it unpacked is removed.
    assert live_guests(elsewhere.folder("runs")) == []
    assert not [
        path for path in elsewhere.folder("runs").rglob("*") if path.is_file() and path.stat().st_size > 1 << 20
    ]
    # A bundle in which one byte of the image has another value is refused.
    content = bytearray(bundle.read_bytes())
    content[content.index(b"image-files/f0") + 512 + 5000] ^= 1
    bundle.write_bytes(content)
    done = resume(bundle, "true", home=elsewhere.path)
    assert done.returncode == 255
    assert "is damaged: image-files/f0" in done.stderr


@pytest.mark.thorough
def test_booted_guest_is_saved(pytester: pytest.Pytester) -> None:
    """It has no agent that could set its clock."""
    pytester.makepyfile(test_it=FAILING)
    options = ("--xhyve-image=tiny", "--xhyve-start=cold", "--xhyve-save-failures=saved")
    pytester.runpytest_subprocess(*options).assert_outcomes(failed=1)
    done = resume(only_bundle(pytester.path / "saved"), "--", "cat /root/before; ls /tmp/ticks; date +%s")
    before, ticks, now = done.stdout.split()
    assert (before, ticks) == ("before", "/tmp/ticks"), done.stderr
    assert abs(int(now) - time.time()) < 10


@pytest.mark.thorough
def test_disk_stays_unplugged(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=UNPLUGGED)
    pytester.runpytest_subprocess("--xhyve-image=tiny", "--xhyve-save-failures=saved").assert_outcomes(failed=1)
    done = resume(only_bundle(pytester.path / "saved"), "--", "cd /sys/block && echo vd*")
    assert (done.stdout, done.returncode) == ("vda vdc\n", 0), done.stderr
    assert "boots from its disk" not in done.stderr


@pytest.mark.thorough
@pytest.mark.run_under("xhyve")
def test_disk_is_saved_without_memory(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    pytester.makepyfile(test_it=FAILING.replace("echo before > /root/before;", "echo before > /root/before; sync;"))
    options = (*hypervisor.options, "--xhyve-image=tiny", "--xhyve-save-failures=saved")
    pytester.runpytest_subprocess(*options).assert_outcomes(failed=1)
    done = resume(only_bundle(pytester.path / "saved"), "--", "cat /root/before")
    assert "boots from its disk, as after a power cut: its memory was not saved" in done.stderr
    assert done.stdout == "before\n", done.stderr


@pytest.mark.thorough
@pytest.mark.run_under("warm")
def test_what_counts_as_a_failure(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.fixture
        def broken(xhyve_guest):
            raise ValueError("in set-up")

        def test_set_up_fails(broken): pass

        def test_block_fails(xhyve_guest_factory):
            with xhyve_guest_factory(name="web") as web, xhyve_guest_factory(name="db"):
                web.run("touch /tmp/here")
                raise ValueError("in the block")

        def test_error_is_expected(xhyve_guest_factory):
            with pytest.raises(ValueError), xhyve_guest_factory():
                raise ValueError("expected")

        def test_passes(xhyve_guest): pass
        """
    )
    result = pytester.runpytest_subprocess(*hypervisor.options, "--xhyve-image=tiny", "--xhyve-save-failures=saved")
    result.assert_outcomes(passed=2, failed=1, errors=1)
    names = sorted(path.name for path in (pytester.path / "saved").glob("*.xhyve"))
    assert names == ["test_it.py-test_block_fails.xhyve", "test_it.py-test_set_up_fails.xhyve"]
    bundle = pytester.path / "saved" / names[0]
    done = resume(bundle, "--guest=web", "--", "ls /tmp/here; hostname")
    assert done.stdout == "/tmp/here\nweb\n", done.stderr
    assert "it has web, db" in resume(bundle, "--guest=other", "true").stderr
    # A bundle that is cut off is refused before anything starts.
    with bundle.open("r+b") as file:
        file.truncate(bundle.stat().st_size // 2)
    assert "is cut off" in resume(bundle, "true").stderr


@pytest.mark.run_under("warm")
def test_killed_run_leaves_no_half_bundle(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    """And a disk that is full costs the bundle, not the run."""
    pytester.makepyfile(test_it=FAILING)
    pytester.makeconftest(
        f"""
        import errno, os, signal

        from pytest_xhyve.formats.bundle_file import BundleWriter

        def finish(self):
            if os.environ["HOW"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError({errno.ENOSPC}, "No space left on device")

        BundleWriter.finish = finish
        """
    )
    options = [sys.executable, "-m", "pytest", *hypervisor.options, "--xhyve-image=tiny", "--xhyve-save-failures=saved"]
    for how, code in (("kill", -signal.SIGKILL), ("full", 1)):
        done = subprocess.run(
            options, env={**os.environ, "HOW": how}, cwd=pytester.path, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout
        assert not list((pytester.path / "saved").glob("*.xhyve"))
    # The later run has removed what the killed one had begun.
    assert not list((pytester.path / "saved").glob(".*.new"))
    assert re.search(r"cannot save the guests of test_it.py::test_fails: .*No space left", done.stdout)
    # A folder that cannot be made is an error before any test.
    done = subprocess.run(
        [*options[:-1], "--xhyve-save-failures=test_it.py/saved"],
        env={**os.environ, "HOW": "full"},
        cwd=pytester.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "test_it.py/saved: Not a directory" in done.stderr
    runs = Home.of_user().folder("runs")
    assert becomes(lambda: all(guest.owner == os.getpid() for guest in live_guests(runs)), 5)


@pytest.mark.thorough
def test_guest_that_does_not_boot_is_saved(pytester: pytest.Pytester) -> None:
    """Its console is there, also where it stopped; nobody can log in."""
    pytester.makeconftest(
        """
        from dataclasses import replace

        def pytest_xhyve_machine(machine):
            return replace(machine, cmdline=f"{machine.cmdline} init=/not/there")
        """
    )
    pytester.makepyfile(test_it="def test_boots(xhyve_guest): pass")
    options = ("--xhyve-image=tiny", "--xhyve-start=cold", "--xhyve-save-failures=saved")
    pytester.runpytest_subprocess(*options).assert_outcomes(errors=1)
    done = resume(only_bundle(pytester.path / "saved"), "--console")
    assert "test_it.py::test_boots failed (setup) at " in done.stderr
    assert "KernelPanic" in done.stderr
    assert "Kernel panic - not syncing" in done.stdout
