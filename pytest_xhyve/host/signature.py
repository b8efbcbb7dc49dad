"""Check the signature of a small file with gpgv, which knows no keys but those that it is given (gpgv(1))."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from pytest_xhyve.host.processes import run_program
from pytest_xhyve.model.errors import ImageError

_SECONDS = 60.0


def find_gpgv() -> str | None:
    """The path of gpgv, or None if it is not installed."""
    return shutil.which("gpgv")


def verified_content(content: bytes, signature: bytes | None, keyring: Path, name: str) -> bytes:
    """The part of *content* that one of the keys in *keyring* has signed.

    Args:
        content: the file; with its signature around it if *signature* is None.
        signature: the detached signature, or None.
        keyring: public keys, not armored.
        name: the file's name, for messages.

    Raises:
        ImageError: it is not signed by one of these keys, or gpgv failed.
    """
    program = find_gpgv()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="pytest-xhyve.") as folder:
        file, signed, output = (Path(folder, each) for each in ("content", "signature", "output"))
        file.write_bytes(content)
        argv = [program, "--keyring", str(keyring.absolute())]
        if signature is None:
            argv += ["--output", str(output), str(file)]
        else:
            signed.write_bytes(signature)
            argv += [str(signed), str(file)]
        try:
            # gpgv creates a folder in the home folder that it is given.
            done = run_program(argv, timeout=_SECONDS, environment={"GNUPGHOME": folder, "LC_ALL": "C"})
        except subprocess.TimeoutExpired as error:
            raise ImageError(f"gpgv did not end within {_SECONDS:g} s") from error
        if done.returncode != 0:
            lines = "".join(f"\n    {line}" for line in done.stderr.strip().splitlines()[-5:])
            raise ImageError(
                f"{name} is not signed by a key of {keyring}; gpgv:{lines}\n"
                "  the file was altered, or the distribution has a new key: install its newest keyring"
            )
        return output.read_bytes() if signature is None else content
