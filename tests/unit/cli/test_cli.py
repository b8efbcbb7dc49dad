"""The command line: how its words are read, what is wrong with them, and what it says to people and programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import run_separately
from fake_images import write_image

from pytest_xhyve.cli import guest_commands
from pytest_xhyve.cli.guest_options import load_settings
from pytest_xhyve.host.guest_folder import RECORD
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.model.options import OPTIONS
from pytest_xhyve.model.settings import Settings


def parsed(command: click.Command, *words: str) -> dict[str, Any]:
    """What *words* give the command that were typed."""
    context = command.make_context(command.name, list(words))
    return {name: value for name, value in context.params.items() if value}


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["tiny", "ls", "-t", "--cpus", "2"], {"command": ("ls", "-t", "--cpus", "2")}),
        (["tiny", "--", "ls", "-t"], {"command": ("ls", "-t")}),
        (["--", "tiny", "ls", "-t"], {"command": ("ls", "-t")}),
        (["tiny", "--", "-x"], {"command": ("-x",)}),
        (["tiny", "ls", "--", "x"], {"command": ("ls", "--", "x")}),
        (["--cpus", "2", "tiny", "ls", "-l"], {"cpus": "2", "command": ("ls", "-l")}),
        (["tiny", "--cpus", "2", "ls", "-l"], {"cpus": "2", "command": ("ls", "-l")}),
        (["--cpus=2", "tiny", "-t", "ls", "-l"], {"cpus": "2", "ttys": 1, "command": ("ls", "-l")}),
        (["-tt", "tiny", "--memory", "1G", "--", "ls"], {"ttys": 2, "memory": "1G", "command": ("ls",)}),
        (["tiny", "echo", "-"], {"command": ("echo", "-")}),
    ],
)
def test_words_are_read_as_ssh_reads_them(words: list[str], meant: dict[str, Any]) -> None:
    assert parsed(guest_commands.run, *words) == {"image": "tiny", **meant}


def test_options_are_those_of_the_plugin() -> None:
    given = {
        "hypervisor": "qemu",
        "executable": "/bin/qemu",
        "user": "joe",
        "key": "/own/key",
        "seed": "/own/seed",
        "accel": "tcg",
        "start": "cold",
        "cpus": "2",
        "memory": "1G",
        "boot_timeout": "60",
        "timeout_factor": "2",
        "max_guests": "3",
    }
    words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    for command in (guest_commands.run, guest_commands.shell):
        context = command.make_context("x", ["tiny", *words, *(["true"] if command is guest_commands.run else [])])
        assert {name: context.params[name] for name in given} == given
        assert load_settings(given)._replace(given={}) == Settings(
            hypervisor="qemu",
            executable="/bin/qemu",
            user="joe",
            key=Path("/own/key"),
            seed=Path("/own/seed"),
            accel="tcg",
            start="cold",
            cpus=2,
            memory=1 << 30,
            boot_timeout=60.0,
            timeout_factor=2.0,
            max_guests=3,
        )


def test_environment_counts_and_options_beat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XHYVE_MAX_GUESTS", "2")
    monkeypatch.setenv("PYTEST_XHYVE_TIMEOUT_FACTOR", "3")
    settings = load_settings({"max_guests": "4"})
    assert (settings.max_guests, settings.timeout_factor) == (4, 3.0)


def test_what_the_environment_says_of_tests_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XHYVE_KEEP", "always")
    monkeypatch.setenv("PYTEST_XHYVE_START", "both")
    settings = load_settings({})
    assert (settings.keep, settings.start) == ("never", "auto")


NO_USER = "~no-such-user/cache"


def test_without_a_cache_folder() -> None:
    assert run_separately("doctor", "--help", PYTEST_XHYVE_HOME=NO_USER).exit_code == 0
    # Without a folder each doctor proves what works here, and a proof that fails takes seconds of CPU.
    found = run_separately("doctor", PYTEST_XHYVE_HOME=NO_USER, PATH="")
    assert (
        "PROBLEM  cache folder: its path depends on the home folder of a user who is unknown or has none"
        in found.stdout
    )
    for words, code in ((["run", "tiny", "true"], 255), (["ps"], 1), (["images"], 1)):
        result = run_separately(*words, PYTEST_XHYVE_HOME=NO_USER)
        assert result.exit_code == code
        assert "starts with the home folder of an unknown user" in result.stderr


# A command has one guest, and no test.
_OF_RUNS = (
    *("image", "prewarm", "templates_size", "keep", "artifacts", "strict", "save_failures", "failures_limit", "report"),
    "save_failures_with_images",
)


@pytest.mark.parametrize("name", ["run", "shell"])
def test_help_tells_of_exit_codes_and_options(name: str) -> None:
    text = run_separately(name, "--help").stdout
    assert "exit code" in text
    assert re.search(rf"^ +pytest-xhyve {name} tiny (uname -r|< script.sh)$", text, re.MULTILINE)
    assert "\\b" not in text
    for option in OPTIONS:
        shown = option.flag.replace("--xhyve-", "--")
        if option.name in _OF_RUNS:
            assert shown not in text
        else:
            assert shown in text
    assert "--xhyve" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "tinny", "true"], "'IMAGE': image 'tinny' not found; did you mean tiny?"),
        (["shell", "debian"], "'IMAGE': image 'debian' not found; did you mean debian12"),
        (["shell", "no.yaml"], "'IMAGE': manifest no.yaml not found"),
        (["run", "tiny"], "Missing argument 'COMMAND...'"),
        (["run", "--cpus", "none", "tiny", "true"], "'--cpus': 'none' is not a whole number from 1"),
        (["run", "tiny", "--memory=1X", "true"], "'--memory': '1X' is not a size; write 512M, 2G"),
        (["shell", "tiny", "--start=both"], "'--start': 'both' is not one of auto, cold, warm"),
        (["shell", "tiny", "--accel=kvn"], "'--accel': 'kvn' is not one of auto, kvm, hvf, tcg; did you mean kvm?"),
        (["run", "--cpu=2", "tiny", "true"], "No such option '--cpu'"),
        (["run", "tiny", "--executable=", "true"], "--executable: the value is empty"),
        (["build", "tinny"], "image 'tinny' not found in the catalog; did you mean tiny?"),
        (["buld", "tiny"], "No such command 'buld'"),
        (["prune", "--older-than=-1"], "'--older-than'"),
    ],
)
def test_wrong_words(words: list[str], said: str) -> None:
    result = run_separately(*words)
    assert result.exit_code == 2
    # As click words it from 8.2 on.
    assert said in result.stderr.replace("No such option: --cpu", "No such option '--cpu'")
    assert result.stderr.startswith("Usage: ")
    assert result.stdout == ""


def test_wrong_environment() -> None:
    result = run_separately("run", "tiny", "true", PYTEST_XHYVE_MAX_GUESTS="0")
    assert result.exit_code == 2
    assert "PYTEST_XHYVE_MAX_GUESTS: '0' is not a whole number" in result.stderr


def test_failures_of_ours_end_as_those_of_ssh(new_home: Home, tmp_path: Path) -> None:
    result = run_separately("run", "tiny", "true", PATH=str(tmp_path))
    assert result.exit_code == 255
    assert result.stderr.startswith("Error: ssh not found in PATH")
    # Nothing was started for it.
    assert not new_home.path.exists()


def test_options_in_messages_have_the_names_they_have_here(new_home: Home) -> None:
    result = run_separately("run", "tiny", "--hypervisor=xhyve", "true")
    assert result.exit_code == 255
    assert "--hypervisor=qemu" in result.stderr
    assert "--xhyve" not in result.stderr


@pytest.mark.parametrize("words", [["ps"], ["reap"], ["images"], ["prune"], ["build", "tiny"], ["run", "tiny", "true"]])
def test_unusable_cache_folder(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run_separately(*words, **{HOME_VARIABLE: str(tmp_path / "file" / "home")})
    assert result.exit_code == (255 if words[0] == "run" else 1)
    assert result.stderr.startswith(f"Error: cannot use the cache folder {tmp_path}/file/home: Not a directory")
    assert HOME_VARIABLE in result.stderr


def test_ps_without_guests(new_home: Home) -> None:
    result = run_separately("ps")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no guests\n")
    result = run_separately("ps", "--json")
    assert (result.exit_code, json.loads(result.stdout), result.stderr) == (0, [], "")
    # Looking makes nothing.
    assert not new_home.path.exists()


def record_guest(home: Home) -> tuple[Path, dict[str, Any]]:
    """The folder and the record of a guest that another process seems to run."""
    folder = home.folder("runs") / "1-run" / "tiny-0"
    folder.mkdir(parents=True)
    record = {
        "name": "tiny-0",
        "image": "tiny",
        "image_disk": "/images/disk.img",
        "uuid": "1db1b6b5-1c4b-4b0b-8b0b-0b0b0b0b0b0b",
        "hypervisor": "qemu",
        "pid": os.getpid(),
        "owner": 1,
        "started": 1.5,
    }
    (folder / RECORD).write_text(json.dumps(record))
    return folder, record


def test_ps_as_json_has_all_that_is_known(new_home: Home) -> None:
    folder, record = record_guest(new_home)
    [guest] = json.loads(run_separately("ps", "--json").stdout)
    assert guest == {**guest, **record, "folder": str(folder)}
    table = run_separately("ps").stdout.splitlines()
    assert table[0].split() == ["NAME", "IMAGE", "HYPERVISOR", "PID", "OWNER", "AGE", "UUID"]
    assert table[1].split()[:3] == ["tiny-0", "tiny", "qemu"]


def test_a_running_guest_takes_no_option_of_a_new_one(new_home: Home, tmp_path: Path) -> None:
    record_guest(new_home)
    result = run_separately("shell", "tiny-0", "--cpus=2", "--disk", "1G")
    assert result.exit_code == 2
    assert "--disk and --cpus cannot be given for tiny-0, which runs already" in result.stderr
    # This one chooses what the name means, and a value of the environment was not given for this guest.
    result = run_separately("shell", "tiny-0", f"--recipes={tmp_path}", PYTEST_XHYVE_ACCEL="tcg")
    assert "is still starting" in result.stderr


def test_reap_tells_what_it_removed(new_home: Home) -> None:
    assert json.loads(run_separately("reap", "--json").stdout) == {"removed": [], "guests": []}
    assert not new_home.path.exists()
    # No process can have this number.
    run = new_home.folder("runs") / "4194999-dead"
    run.mkdir()
    assert json.loads(run_separately("reap", "--json").stdout) == {"removed": [str(run)], "guests": []}
    assert not run.exists()
    assert run_separately("reap").stderr == "nothing to remove\n"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["images"], id="images"),
        pytest.param(["show", "ubuntu18.yaml"], marks=pytest.mark.thorough, id="show"),
    ],
)
def test_reader_that_has_seen_enough(new_home: Home, tmp_path: Path, arguments: list[str]) -> None:
    write_image(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        argv = [sys.executable, "-m", "pytest_xhyve.cli", *arguments]
        done = subprocess.run(argv, check=False, cwd=tmp_path, stdout=output, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"")


def test_standard_streams_that_are_closed(new_home: Home) -> None:
    argv = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "pytest_xhyve.cli", "ps"]
    assert subprocess.run(argv, check=False).returncode == 0
