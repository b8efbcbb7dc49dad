"""Which disks are prepared, and how long a preparation usually takes."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pytest_xhyve.host.digests import remembered_digest
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.locks import SHORT_SECONDS, locked
from pytest_xhyve.images.manifest import Manifest, read_manifest
from pytest_xhyve.images.own_login import read_seed
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.preparation.disk_file import look
from pytest_xhyve.preparation.unpack import unpacked_path

FOLDER = "prepared"
"""The folder in the cache folder; each prepared disk has a folder of its own in it, named by its key."""

MANIFEST = "manifest.yaml"
"""The manifest in that folder."""

_FORMAT = 6
"""Counts what we ourselves changed in how a disk is prepared."""

_DIGITS = 16
_SECONDS = "seconds.json"
_REMEMBERED = 10


def stated_seed(manifest: Manifest) -> dict[str, bytes] | None:
    """The user's data for cloud-init that *manifest* states, by the names of its files.

    Raises:
        ConfigurationError: it cannot be read.
    """
    return read_seed(manifest.values["seed"]) if "seed" in manifest.values else None


def preparation_key(
    manifest: Manifest,
    disk_format: str,
    digests: Sequence[str | None],
    key_file: Path,
    digest_of: Callable[[Path], str | None],
) -> str:
    """A digest of all that the result of a preparation depends on.

    Args:
        manifest: what is stated of the disk.
        disk_format: the disk's format.
        digests: the SHA-256 of the disk, and of each file that it is based on.
        key_file: the plugin's private key, which the guest gets the public half of.
        digest_of: returns the SHA-256 of a file that the manifest states.

    Raises:
        ConfigurationError: the data for cloud-init cannot be read.
        OSError: the key cannot be read.
    """
    values = manifest.values
    seed = stated_seed(manifest)
    inputs: dict[str, Any] = {key: values[key] for key in ("user", "cmdline", "host_keys") if key in values}
    inputs |= {key: digest_of(values[key]) for key in ("kernel", "initrd") if key in values}
    inputs["seed"] = {name: hashlib.sha256(content).hexdigest() for name, content in (seed or {}).items()}
    inputs["own_login"] = manifest.own_user
    client = hashlib.sha256(key_file.read_bytes()).hexdigest()
    text = json.dumps([_FORMAT, disk_format, digests, client, inputs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def find_prepared(manifest: Manifest, home: Home) -> Path | None:
    """The manifest of the prepared disk; None if the disk is not known to be prepared.

    Only what can be seen without reading the disk counts, and nothing is written.
    """
    checked = home.path / "checked"

    def known(path: Path) -> str | None:
        return remembered_digest(path, checked)

    try:
        disk = look(manifest.disk)
        if disk.compression:
            digest = known(manifest.disk)
            if digest is None:
                return None
            disk = look(unpacked_path(digest, home))
        digests = [known(file) for file in disk.files]
        if None in digests:
            return None
        key = preparation_key(manifest, disk.format, digests, home.path / "keys" / "id_ed25519", known)
    except (XhyveError, OSError):
        # The disk, or a file that the manifest states, is missing: the test that uses it reports that.
        return None
    path = home.path / FOLDER / key / MANIFEST
    return path if path.exists() else None


def prepared_state(path: Path) -> str:
    """The state of the system after the first boot, as the manifest at *path* has it; empty if that cannot be read."""
    try:
        return str(read_manifest(path).made.get("state", ""))
    except XhyveError:
        # The test that uses the image reports it.
        return ""


def describe_state(state: str) -> str:
    """What *state* adds to a line about a disk: nothing if all of its system runs."""
    return "" if state in ("", "running") else f"; its system is {state}"


def describe_duration(home: Home) -> str:
    """How long a preparation takes, for people: by the earlier ones of this user, if there were any."""
    seconds = _recorded(home)
    if not seconds:
        return "takes about as long as one boot and shutdown of it"
    return f"usually takes about {statistics.median(seconds):.0f} s"


def record_duration(home: Home, seconds: float) -> None:
    """Remember that a preparation took *seconds*."""
    path = home.folder(FOLDER) / _SECONDS
    fresh = path.with_suffix(".new")
    # Two processes may prepare two disks at once.
    with locked(path.with_suffix(".lock"), "records a duration", SHORT_SECONDS):
        fresh.write_text(json.dumps([*_recorded(home), seconds][-_REMEMBERED:]))
        fresh.replace(path)


def _recorded(home: Home) -> list[float]:
    try:
        return [float(each) for each in json.loads((home.path / FOLDER / _SECONDS).read_text())]
    except (OSError, ValueError, TypeError):
        # There was none yet, or the file is damaged.
        return []
