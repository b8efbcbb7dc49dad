"""Bad input of a command: the exit code, and a message that states what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_images import write_image
from homes import KNOWN, share
from mounting import mounted

from pytest_xhyve.cli.commands import main
from pytest_xhyve.host.home import HOME_VARIABLE, Home


@pytest.fixture
def folder(pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that has a home of its own, in which no image is built."""
    home = share(Home.of_user(), tmp_path / "home", KNOWN)
    monkeypatch.setenv(HOME_VARIABLE, str(home.path))
    return pytester.path


# What the command line must say, with a cache folder that cannot be used and with wrong words.
COMMANDS: dict[str, tuple[list[str], int, tuple[str, ...]]] = {
    "build": (["build", "tiny"], 1, ("cannot use the cache folder ", "Not a directory", f"set {HOME_VARIABLE} to")),
    "build an unknown name": (
        ["build", "debian21"],
        2,
        ("image 'debian21' not found in the catalog", "did you mean debian12"),
    ),
    "images": (["images"], 1, ("cannot use the cache folder ", "Not a directory", "you may read")),
    "prune": (["prune"], 1, ("cannot use the cache folder ", "Not a directory", "you may read")),
    "prune --older-than": (["prune", "--older-than=x"], 2, ("--older-than", "'x'")),
    "ps": (["ps"], 1, ("cannot use the cache folder ", "Not a directory")),
    "reap": (["reap"], 1, ("cannot use the cache folder ", "Not a directory")),
    "doctor": (["doctor"], 1, ("PROBLEM", "cache folder: ", "is a file", f"export {HOME_VARIABLE}=")),
    "unknown command": (["dokter"], 2, ("No such command 'dokter'",)),
    "run": (["run", "tiny", "true"], 255, ("cannot use the cache folder ", "Not a directory", f"set {HOME_VARIABLE}")),
    "run an unknown name": (
        ["run", "tinny", "true"],
        2,
        ("image 'tinny' not found", "did you mean tiny?", "(in ", ": debian12,"),
    ),
    "run with no CPU": (["run", "--cpus=0", "tiny", "true"], 2, ("--cpus", "'0' is not a whole number from 1")),
    "run with wrong memory": (["run", "--memory=12x", "tiny", "true"], 2, ("--memory", "'12x' is not a size")),
    "run nothing": (["run", "tiny"], 2, ("Missing argument 'COMMAND...'",)),
    "shell": (["shell", "tiny"], 255, ("cannot use the cache folder ", "Not a directory", f"set {HOME_VARIABLE}")),
    "shell in a missing image": (["shell", "ubuntu1.img"], 2, ("image 'ubuntu1.img' not found",)),
}


@pytest.mark.parametrize("case", COMMANDS.values(), ids=COMMANDS.keys())
def test_command(case: tuple[list[str], int, tuple[str, ...]], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    argv, code, words = case
    environment = {HOME_VARIABLE: str(tmp_path / "file" / "home")}
    if argv == ["doctor"]:
        # It proves what works here where it finds QEMU, and a proof that fails takes seconds of CPU.
        environment["PATH"] = ""
    result = CliRunner(env=environment).invoke(main, argv)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    at = 0
    for word in words:
        at = result.output.find(word, at)
        assert at >= 0, (word, result.output)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernl": "vmlinuz"}, "unknown key 'kernl'; did you mean kernel"),
        ({"user": 5}, "user: expected text, not 5"),
        ({"disk": None}, "missing disk"),
        ({"initrd": "gone"}, "initrd: cannot read"),
        ({"kernel": "initrd"}, "is not a Linux kernel"),
        ({"cpus": 0}, "cpus: 0 is not a whole number from 1"),
        ({"memory": "12x"}, "memory: '12x' is not a size"),
        ({"key": "initrd"}, "is not a private key"),
        ({"host_keys": ["AAAA"]}, "'AAAA' is not a public key"),
    ],
)
def test_run_with_a_wrong_manifest(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    manifest = write_image(tmp_path, **changes)
    result = CliRunner(env={HOME_VARIABLE: str(tmp_path / "home")}).invoke(
        main, ["run", "--accel=tcg", str(manifest), "true"]
    )
    # What is wrong with the manifest is wrong with what was typed; the rest is found where the guest is made.
    assert result.exit_code == (255 if set(changes) & {"initrd", "kernel", "key"} else 2)
    assert words in result.output
    assert "Traceback" not in result.output
    assert not list((tmp_path / "home" / "runs").glob("*"))


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system on which no file can be made any more."""
    with mounted(tmp_path / "full", "nr_inodes=1") as folder:
        yield folder


def test_build_on_a_full_disk(full: Path) -> None:
    result = CliRunner(env={HOME_VARIABLE: str(full)}).invoke(main, ["build", "tiny"])
    assert result.exit_code == 1
    assert "no space left for guests" in result.output
    assert "pytest-xhyve prune" in result.output
