"""A command has the options that it reads: each one is read, and each other one of the plugin's is an error."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest
from command_line import run_separately
from fake_images import write_image

from pytest_xhyve.cli import guest_options
from pytest_xhyve.cli.commands import main
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.model.options import OPTIONS
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.preparation import helper_guest, install
from pytest_xhyve.preparation.installer_disc import InstallerDisc

LOOKUP = {"recipes", "distributions"}
PLACES = LOOKUP | {"mirror", "offline"}
LOGIN = {"user", "key", "seed"}
HYPERVISOR = {"hypervisor", "executable", "accel", "timeout_factor"}
BOOT = HYPERVISOR | {"boot_timeout"}
GUEST = PLACES | LOGIN | BOOT | {"cpus", "memory", "start", "network", "max_guests"}

# Calls that end where they would download, or run a machine: nothing may be downloaded, and QEMU ends at once.
PULLED = "was not pulled yet"
STARTED = "QEMU 9.0.0 ended with exit code 1 before the guest started"

# What each command reads; and calls with all of these options that reach what reads them, and how each call ends.
COMMANDS: dict[str, tuple[set[str], tuple[tuple[list[str], str], ...]]] = {
    "run": (GUEST, ((["image.yaml", "true"], STARTED), (["debian-12", "true"], PULLED))),
    "shell": (GUEST, ((["image.yaml"], STARTED), (["debian-12"], PULLED))),
    "build": (PLACES, ((["mine"], PULLED),)),
    "pull": (PLACES - {"recipes"}, ((["debian-12"], PULLED),)),
    "install": (HYPERVISOR | {"cpus", "memory"}, ((["disc.iso", "installed"], STARTED),)),
    "show": (LOOKUP | BOOT, ((["disk.img"], STARTED),)),
    "boot-files": (LOOKUP | BOOT, ((["disk.img", "boot"], STARTED),)),
    "import": (PLACES | LOGIN | BOOT, ((["disk.img"], STARTED), (["debian-12"], PULLED))),
    "export": (PLACES | LOGIN | BOOT, ((["disk.img", "exported"], STARTED), (["debian-12", "exported"], PULLED))),
    "send": (PLACES | LOGIN | BOOT, ((["disk.img", "host"], STARTED), (["debian-12", "host"], PULLED))),
}
VALUES = {
    "recipes": "recipes",
    "distributions": "list.yaml",
    "mirror": "https://a=https://b",
    "offline": None,
    "user": "root",
    "key": "key",
    "seed": "seed",
    "hypervisor": "qemu",
    "executable": "./qemu-system-x86_64",
    "accel": "tcg",
    "start": "cold",
    "cpus": "1",
    "memory": "64M",
    "network": "none",
    "boot_timeout": "9",
    "timeout_factor": "2",
    "max_guests": "3",
}


class ReadSettings(Settings):
    """Settings that record which of them the package reads."""

    read: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> Any:
        # A copy reads all of them.
        if sys._getframe(1).f_code.co_filename not in (dataclasses.__file__, guest_options.__file__):
            ReadSettings.read.add(name)
        return super().__getattribute__(name)


@pytest.fixture
def project(new_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the calls name."""
    write_image(tmp_path, "image")
    (tmp_path / "disk.img").write_bytes(bytes(446) + bytes([0x80, 0, 0, 0, 0x83] + [0] * 11) + bytes(48) + b"\x55\xaa")
    with (tmp_path / "disk.img").open("ab") as disk:
        disk.truncate(1 << 20)
    (tmp_path / "disc.iso").touch()
    (tmp_path / "list.yaml").write_text("{}")
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed" / "user-data").write_text("#cloud-config\n")
    (tmp_path / "recipes" / "mine").mkdir(parents=True)
    (tmp_path / "recipes" / "mine" / "recipe.yaml").write_text("extends: debian-12\n")
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text('#!/bin/sh\ntest "$1" = --version && echo "QEMU emulator version 9.0.0"\n')
    qemu.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    # The helper guest's image takes minutes to build, and the disc of an installer is large.
    image = read_manifest(tmp_path / "image.yaml")
    monkeypatch.setattr(helper_guest, "build_image", lambda *_, **__: image)
    disc = InstallerDisc("preseed", b"kernel", b"initrd")
    monkeypatch.setattr(install, "read_installer_disc", lambda _: disc)
    return tmp_path


def words_of(name: str) -> list[str]:
    flag, value = f"--{name.replace('_', '-')}", VALUES[name]
    return [flag] if value is None else [f"{flag}={value}"]


def of_the_plugin(command: click.Command) -> set[str]:
    """The options of *command* that are options of the plugin, too; `resume` has some of its own by these names."""
    callback = guest_options._checked_by.__name__
    return {
        param.name or ""
        for param in command.params
        if isinstance(param, click.Option) and callback in getattr(param.callback, "__qualname__", "")
    }


def test_each_command_has_the_options_that_it_reads() -> None:
    assert {name: of_the_plugin(command) for name, command in main.commands.items() if of_the_plugin(command)} == {
        name: options for name, (options, _) in COMMANDS.items()
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_read(name: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_options, "Settings", ReadSettings)
    monkeypatch.setattr(ReadSettings, "read", set())
    options, calls = COMMANDS[name]
    for call, end in calls:
        # A seed is for a disk that is to be prepared, and so not for an image.
        given = options - LOGIN if "image.yaml" in call else options
        words = [word for option in VALUES if option in given for word in words_of(option)]
        assert end in run_separately(name, *words, *call).stderr
    assert options - ReadSettings.read == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_other_option_is_refused(name: str) -> None:
    options, ((call, _), *_) = COMMANDS[name]
    for other in VALUES.keys() - options:
        result = run_separately(name, *words_of(other), *call)
        assert result.exit_code == 2
        assert "No such option" in result.stderr
        assert words_of(other)[0].partition("=")[0] in result.stderr


def test_every_option_of_a_guest_is_tried() -> None:
    assert VALUES.keys() == GUEST
    assert {option.name for option in OPTIONS} > GUEST
