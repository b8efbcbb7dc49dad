"""Building images: interrupted, twice at once, as an ordinary user; and running a guest from an installed wheel."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml

from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.images import build
from pytest_xhyve.images.build import build_image
from pytest_xhyve.images.keys import client_key
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.images.recipe import RECIPES, read_recipe
from pytest_xhyve.model.architecture import ARM64, X86_64
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

TOP = Path(__file__).parents[2]
USER = "xhyve-test"
ANOTHER = X86_64 if ARM64.is_native() else ARM64


def start_build(home: Home) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pytest_xhyve.cli", "build", "tiny"],
        env=os.environ | {HOME_VARIABLE: str(home.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def tools_of(home: Home) -> list[str]:
    """The processes that work for a build in *home*."""
    return [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and any(str(home.path) in word for word in process.info["cmdline"] or [])
    ]


def test_built_image_is_not_built_again() -> None:
    first = build_image("tiny", Home.of_user(), print)
    said: list[str] = []
    assert build_image("tiny", Home.of_user(), said.append) == first
    assert said == []
    assert first.disk.stat().st_mode & 0o777 == 0o400
    assert first.made["recipe"] == "tiny"
    # Sparse: it takes a fraction of its size.
    assert first.disk.stat().st_blocks * 512 < first.disk.stat().st_size / 4


@pytest.mark.thorough
def test_killed_build_leaves_no_image_and_two_at_once_make_one(new_home: Home) -> None:
    killed = start_build(new_home)
    assert killed.stdout is not None
    while "unpacking" not in killed.stdout.readline():
        assert killed.poll() is None
    time.sleep(1)
    killed.kill()
    killed.communicate()
    images = new_home.folder("images")
    assert not (images / "tiny.yaml").exists()
    assert list(images.glob(".tiny.*"))
    end = time.monotonic() + 2
    while tools_of(new_home):
        assert time.monotonic() < end, tools_of(new_home)
        time.sleep(0.05)
    if os.geteuid() == 0:
        assert not list(Path("/tmp").glob("mmdebstrap.*"))

    both = [start_build(new_home) for _ in range(2)]
    said = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("unpacking packages" in text for text in said) == [False, True]
    assert not list(images.glob(".tiny.*"))
    (folder,) = images.glob("tiny-*")
    assert read_manifest(images / "tiny.yaml").disk.parent == folder
    assert sorted(path.name for path in folder.iterdir()) == ["disk.img", "host_key.pub", "initrd.img", "vmlinuz"]


def test_failing_tool_is_told_in_its_words(new_home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "programs"
    fake.mkdir()
    (fake / "mmdebstrap").write_text("#!/bin/sh\necho 'E: no such suite' >&2\nexit 25\n")
    (fake / "mmdebstrap").chmod(0o700)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    with pytest.raises(
        ImageError, match=r"mmdebstrap ended with exit code 25\n[\s\S]*E: no such suite\n.*read the complete log: "
    ):
        build_image("tiny", new_home, print)
    assert not [path for path in new_home.folder("images").iterdir() if path.is_dir()]


def test_missing_tools_are_named(new_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_TOOLS", ("mmdebstrap", "no-such-tool"))
    with pytest.raises(ImageError, match=r"no-such-tool not found\n.*apt install"):
        build_image("tiny", new_home, print)


def test_other_key_or_recipe_makes_another_image(new_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be built is told by its identity, without building it."""
    _, pair = client_key(new_home.folder("keys"))
    recipe = read_recipe("tiny")
    before = build._identity(recipe, pair)
    assert before == build._identity(recipe, pair)
    shutil.rmtree(new_home.path / "keys")
    _, other = client_key(new_home.folder("keys"))
    assert build._identity(recipe, other) != before
    assert build._identity(read_recipe("debian12"), pair) != before


@pytest.fixture
def ordinary_user(tmp_path: Path) -> Iterator[pwd.struct_passwd]:
    """A user who is not root and may have user namespaces (subuid(5))."""
    if os.geteuid() != 0:
        pytest.skip("this run is one by an ordinary user already")
    subprocess.run(["useradd", "--create-home", "--base-dir", "/var/tmp", USER], check=True)
    try:
        yield pwd.getpwnam(USER)
    finally:
        subprocess.run(["userdel", "--remove", USER], check=True, capture_output=True)


@pytest.mark.thorough
def test_ordinary_user_builds_and_runs(ordinary_user: pwd.struct_passwd) -> None:
    """From an installed wheel, in an environment of the user's own, as anybody else would."""
    at = Path(ordinary_user.pw_dir)
    wheel_folder = at / "wheel"
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(wheel_folder), str(TOP)],
        check=True,
        capture_output=True,
    )
    (wheel,) = wheel_folder.glob("*.whl")
    at.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "HOME": str(at), "LANG": "C.UTF-8"}
    environment |= {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
    # A user of the system may not read this run's interpreter; Debian's own is for all.
    python = "/usr/bin/python3"

    def as_user(*argv: str | Path, timeout: float = 300) -> str:
        done = subprocess.run(
            [str(word) for word in argv],
            check=False,
            user=ordinary_user.pw_uid,
            group=ordinary_user.pw_gid,
            extra_groups=[],
            cwd=at,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    as_user(python, "-m", "venv", at / "venv")
    as_user(at / "venv/bin/pip", "install", "--quiet", wheel)
    (at / "test_it.py").write_text("def test_guest(xhyve_guest): assert xhyve_guest.run('id -u').stdout == '0\\n'\n")
    said = as_user(at / "venv/bin/pytest", "--xhyve-image=tiny", at / "test_it.py")
    assert "1 passed" in said
    # It says what takes so long, though pytest captures what is printed.
    assert "xhyve: building tiny" in said
    manifest = yaml.safe_load((at / ".cache/pytest-xhyve/images/tiny.yaml").read_text())
    assert manifest["sha256"]
    for secret in (at / ".cache/pytest-xhyve/keys", at / ".cache/pytest-xhyve/images"):
        assert secret.stat().st_mode & 0o077 == 0
    # For another processor, the host needs no emulator, and gets no entry for one (binfmt_misc).
    entries = sorted(Path("/proc/sys/fs/binfmt_misc").iterdir())
    as_user(at / "venv/bin/pytest-xhyve", "build", "tiny", "--arch", ANOTHER.debian)
    manifest = yaml.safe_load((at / f".cache/pytest-xhyve/images/tiny-{ANOTHER.name}.yaml").read_text())
    assert manifest["arch"] == ANOTHER.name
    assert sorted(Path("/proc/sys/fs/binfmt_misc").iterdir()) == entries
    assert "no guests" not in as_user(at / "venv/bin/pytest-xhyve", "ps")
    assert not list((at / ".cache/pytest-xhyve/runs").iterdir())


@pytest.mark.thorough
def test_image_by_the_path_of_its_disk(tmp_path: Path) -> None:
    """As `pytest --xhyve-image=ubuntu18.img`, raw and qcow2, with a manifest beside it."""
    tiny = build_image("tiny", Home.of_user(), print)
    content = yaml.safe_load(tiny.manifest.read_text())
    content |= {"kernel": str(tiny.kernel), "initrd": str(tiny.initrd), "key": str(tiny.key)}
    del content["name"], content["size"], content["sha256"], content["made"]
    for kind in ("raw", "qcow2"):
        disk = tmp_path / f"my-{kind}.img"
        subprocess.run(["qemu-img", "convert", "-O", kind, str(tiny.disk), str(disk)], check=True)
        disk.with_suffix(".yaml").write_text(yaml.safe_dump(content | {"disk": disk.name, "format": kind}))
        before = disk.read_bytes() if kind == "qcow2" else b""
        # The catalog's images are raw, and restored from templates in many tests.
        fleet = Fleet(Settings(start="cold" if kind == "raw" else "auto"), Home.of_user())
        try:
            with fleet.start(ForegroundRequest(GuestSpec(image=disk))) as guest:
                assert guest.run("echo $((1 + 1)); echo x > /root/x; sync").stdout == "2\n"
                assert guest.image.name == f"my-{kind}"
                if kind == "qcow2":
                    live = fleet.catalog.find(disk)
                    assert live.format == "qcow2"
        finally:
            fleet.close()
        if kind == "qcow2":
            assert disk.read_bytes() == before


@pytest.mark.thorough
def test_partitioned_disk_boots_with_the_usual_words() -> None:
    """Those that people give to Ubuntu's kernel under xhyve, and none of the recipe's."""
    image = build_image("tiny-partitioned", Home.of_user(), print)
    words = "earlyprintk=serial console=ttyS0 root=/dev/vda1 ro"
    # A restored guest asks for a login under the name that the template had.
    fleet = Fleet(Settings(start="cold"), Home.of_user())
    try:
        with fleet.start(ForegroundRequest(GuestSpec(image=replace(image, cmdline=words)))) as guest:
            assert guest.run("cat /proc/cmdline").stdout.startswith(words)
            assert guest.run("cat /sys/class/net/eth0/address").stdout.strip() == guest.mac
            guest.run("echo x > /root/x && sync")
            guest.console.wait_for(rf"^{guest.name} login: ", timeout=60)
            guest.console.send("root\n")
            guest.console.wait_for("Password: ", timeout=20)
    finally:
        fleet.close()


def test_recipes_are_in_the_tree() -> None:
    assert RECIPES.joinpath("tiny", "recipe.yaml").is_file()
