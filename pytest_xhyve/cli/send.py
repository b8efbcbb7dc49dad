"""Send an image to another host by OpenSSH's client, which the user has set up: keys, known hosts, jump hosts."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pytest_xhyve.cli.exchange import describe_image
from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.cli.ssh_client import TerminationSignals, find_ssh
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.pipe_wire import Disconnected, PipeWire
from pytest_xhyve.images.transfer import receive_image, send_image
from pytest_xhyve.model.errors import ConfigurationError, XhyveError
from pytest_xhyve.model.settings import Settings

_COMMAND = "pytest-xhyve"
# A host that is gone ends the connection within a minute; one that writes to a slow disk is silent for long.
_LIVELY = ("-o", "ConnectTimeout=30", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
_SILENT_SECONDS = 600.0
_END_SECONDS = 10.0


def send_to(
    wanted: str, host: str, settings: Settings, *, python: str | None, ssh_config: str | None, progress: Progress
) -> str:
    """Send the image *wanted* to *host*; return the path of its manifest there.

    Args:
        wanted: a name, or the path of a disk, a manifest or a recipe.
        host: ``USER@HOST``, or a name of ssh_config(5).
        settings: for the guests that prepare it, and where names are looked up.
        python: the interpreter there that has the plugin; None runs ``pytest-xhyve`` from the PATH there.
        ssh_config: a file in the place of the user's ssh_config(5).
        progress: shows what takes long.

    Raises:
        ConfigurationError: *host* is not a host.
        XhyveError: the image cannot be had, the connection ended, or the other host reports an error.
        SystemExit: a signal ended this process; the other host imports nothing.
    """
    if not host or host.startswith("-") or any(character.isspace() for character in host):
        raise ConfigurationError(f"{host!r} is not a host: give USER@HOST, or a name of your ssh_config")
    with TerminationSignals():
        export = describe_image(wanted, settings, progress)
        with progress.activity(f"sending {export.image.name} to {host}"), _connected(host, python, ssh_config) as wire:
            return send_image(export, wire, host, progress.line, name=True)


def receive_from_pipe() -> None:
    """Import the image that comes on standard input, for `send_to` at its other end."""
    with TerminationSignals():
        receive_image(PipeWire(sys.stdin.fileno(), sys.stdout.fileno(), _SILENT_SECONDS), Home.of_user())


@contextmanager
def _connected(host: str, python: str | None, ssh_config: str | None) -> Iterator[PipeWire]:
    """A connection to ``pytest-xhyve receive`` on *host*."""
    words = [_COMMAND, "receive"] if python is None else [python, "-m", "pytest_xhyve.cli", "receive"]
    # The shell of the other host parses the command again (ssh(1)); each word is quoted for it.
    config = [] if ssh_config is None else ["-F", ssh_config]
    argv = [find_ssh(), *config, *_LIVELY, "--", host, shlex.join(words)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield PipeWire(process.stdout.fileno(), process.stdin.fileno(), _SILENT_SECONDS)
            process.stdin.close()
        except Disconnected as error:
            process.stdin.close()
            raise XhyveError(_explain(process, host, words, error)) from error
        finally:
            _end(process)


def _explain(process: subprocess.Popen[bytes], host: str, words: Sequence[str], error: Disconnected) -> str:
    try:
        code = process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        return f"the connection to {host} failed: {error}"
    if code == os.EX_OK:
        return f"the connection to {host} failed: {error}"
    reason = (
        "ssh failed; its message is above"
        if code == 255  # ssh(1)
        else f"`{shlex.join(words)}` ended there with exit code {code}"
    )
    return (
        f"cannot send to {host}: {reason}\n"
        "  install the same version of pytest-xhyve there, or name the Python that has it by --python"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
