"""Kill a piece of work before each of its changes of a folder, and look at what is left of one that was killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from pytest_xhyve.host.home import Home

# Python's audit events for changes of the file system, which come before the change (docs.python.org, audit_events).
_CHANGES = ("os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate")


def killed_at(change: int, folder: Path, work: Callable[[], object]) -> bool:
    """Do *work* in a process of its own, which dies (SIGKILL) before its change number *change* in *folder*.

    Returns:
        whether it died; False if it was done before.
    """
    child = os.fork()
    if child == 0:
        _become_killed(change, folder, work)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed"
    return False


def processes_of(home: Home) -> list[psutil.Process]:
    """Those whose command line names the folder of the plugin: guardians and hypervisors."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(home.path) in word for word in words):
            found.append(process)
    return found


def _become_killed(change: int, folder: Path, work: Callable[[], object]) -> None:
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        is_change = event in _CHANGES or (event == "open" and _writes(arguments))
        if is_change and any(isinstance(each, str) and each.startswith(str(folder)) for each in map(_text, arguments)):
            seen += 1
            if seen == change:
                os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        sys.addaudithook(hook)
        work()
        code = 0
    finally:
        # Without what the process that was forked would do at its end.
        os._exit(code)


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    return "w" in (mode or "") or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))


def _text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value
