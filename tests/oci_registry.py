"""An OCI registry on this host: Debian's docker-registry, which is the one of the Distribution project."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bcrypt
import yaml
from waiting import becomes

PROGRAM = shutil.which("docker-registry")
LOGIN = ("tester", "secret of tester")
_SECONDS = 30.0


@contextmanager
def running_registry(folder: Path, *, asks_for_login: bool = False) -> Iterator[str]:
    """A registry whose files are in *folder*; its host and port.

    Args:
        folder: an empty folder.
        asks_for_login: whether only `LOGIN` may read and write.
    """
    assert PROGRAM is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"addr": address},
    }
    if asks_for_login:
        user, password = LOGIN
        known = folder / "htpasswd"
        known.write_text(f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4, b'2a')).decode()}\n")
        settings["auth"] = {"htpasswd": {"realm": "test", "path": str(known)}}
    (folder / "config.yml").write_text(yaml.safe_dump(settings))
    argv = [PROGRAM, "serve", str(folder / "config.yml")]
    with (folder / "log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            assert becomes(lambda: _listens(address), _SECONDS), (folder / "log").read_text()
            yield address
        finally:
            process.kill()


def _listens(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0
