"""What the controller of pytest-xdist and its workers send to each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_xhyve.model.settings import Settings

PASSWORD_KEY = "xhyve_password"  # noqa: S105  # not a password, but a key
"""To a worker: the password that the user was asked for, as a worker has no terminal."""

BROUGHT_KEY = "xhyve_brought"
"""To a worker: the images that the controller has sent to its host."""

SUMMARY_KEY = "xhyve_summary"
"""From a worker: its part of the summary."""

RUN_KEY = "xhyve_run"
"""From a worker: the id of the run if it has used a guest of the whole run."""


def worker_input(config: pytest.Config) -> dict[str, Any]:
    """What the controller has sent to this worker; empty if this process is not one."""
    sent: dict[str, Any] = getattr(config, "workerinput", {})
    return sent


def worker_output(config: pytest.Config) -> dict[str, Any] | None:
    """What this worker will send to the controller; None if this process is not a worker."""
    return getattr(config, "workeroutput", None)


def receive_settings(settings: Settings, config: pytest.Config) -> Settings:
    """*settings* of this worker, with what only the controller knows; those of another process stay as they are."""
    sent = worker_input(config)
    # The password is then in one place only.
    password, brought = sent.pop(PASSWORD_KEY, None), sent.pop(BROUGHT_KEY, None)
    if password is not None:
        from pytest_xhyve.model.secret import Secret

        settings = settings._replace(password=Secret(password))
    if brought is not None:
        settings = settings._replace(brought=tuple((text, Path(manifest)) for text, manifest in brought))
    return settings
