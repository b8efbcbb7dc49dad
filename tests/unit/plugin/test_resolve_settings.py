"""The settings of a run: paths that stay valid, and what a worker of pytest-xdist gets from its controller."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_xhyve.model.options import OPTIONS
from pytest_xhyve.model.settings import PARSERS, Settings
from pytest_xhyve.model.values import parse_path
from pytest_xhyve.plugin.stash import is_worker, settings_of
from pytest_xhyve.plugin.workers import (
    BROUGHT_KEY,
    PASSWORD_KEY,
    receive_settings,
    worker_input,
    worker_output,
)

PATHS = [option for option in OPTIONS if PARSERS[option.name] is parse_path]


class Worker:
    """The part of a worker's `pytest.Config` that xdist adds."""

    def __init__(self) -> None:
        self.workerinput = {
            "workerid": "gw0",
            PASSWORD_KEY: "secret",
            BROUGHT_KEY: [("tiny", "/there/tiny.yaml")],
        }
        self.workeroutput: dict[str, object] = {}


def paths_in(settings: Settings) -> dict[str, Path]:
    values = {option.name: getattr(settings, option.name) for option in PATHS}
    return {name: value[0] if isinstance(value, tuple) else value for name, value in values.items()}


def test_there_are_options_with_paths() -> None:
    assert {"recipes", "key", "report"} < {option.name for option in PATHS}


def test_a_path_starts_from_the_folder_of_the_call(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfigure(*(f"{option.flag}={option.name}" for option in PATHS))
    assert paths_in(settings_of(config)) == {option.name: pytester.path / option.name for option in PATHS}


def test_a_path_in_the_ini_file_starts_from_its_folder(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini("[pytest]\n" + "".join(f"{option.ini} = {option.name}\n" for option in PATHS))
    folder = pytester.mkdir("below")
    monkeypatch.chdir(folder)
    config = pytester.parseconfigure()
    assert paths_in(settings_of(config)) == {option.name: pytester.path / option.name for option in PATHS}


def test_a_worker_gets_what_only_the_controller_knows(pytester: pytest.Pytester) -> None:
    worker: pytest.Config = Worker()  # type: ignore[assignment]
    settings = receive_settings(Settings(), worker)
    assert settings.password is not None
    assert settings.password.reveal() == "secret"
    assert settings.brought == (("tiny", Path("/there/tiny.yaml")),)
    assert worker_input(worker) == {"workerid": "gw0"}, "the password is in one place only"
    assert is_worker(worker)
    assert worker_output(worker) == {}

    config = pytester.parseconfig()
    assert not is_worker(config)
    assert worker_output(config) is None
    assert receive_settings(settings, config) is settings
