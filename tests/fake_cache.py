"""Files in a cache folder that commands list and remove: templates, images that were built, layers, and a run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from fake_images import qcow2, write_image

from pytest_xhyve.host import runs
from pytest_xhyve.host.digests import digest_of, known_digest
from pytest_xhyve.host.guest_folder import RECORD
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.machine import Disk
from pytest_xhyve.templates.identity import AgentState
from pytest_xhyve.templates.store import Template, TemplateStore

LONG_AGO = time.time() - 30 * 86400
CURRENT, EARLIER = "tiny-0123456789ab", "tiny-ba9876543210"


def store_of(home: Home) -> TemplateStore:
    return TemplateStore(home.folder("templates"), home.folder("checked"))


def write_template(home: Home, key: str = "57c71a1aa0fac907", image: str = "tiny", used: float = LONG_AGO) -> Template:
    store = store_of(home)
    with store.workspace(key) as workspace:
        disk = workspace / "disk.raw"
        disk.write_bytes(os.urandom(1 << 16))
        store.publish(workspace, key, image, [Disk(disk, "raw")], AgentState(3, 4, "eth0", 5))
    [template] = [template for template in store.all() if template.key == key]
    for path in [*template.folder.iterdir(), template.folder]:
        os.utime(path, (used, used))
    return template


def write_prepared(home: Home, key: str = "0123456789abcdef") -> Path:
    """What was made of a user's disk."""
    folder = home.folder("prepared") / key
    folder.mkdir()
    write_image(folder, "manifest")
    return folder


def write_build(home: Home, *, replaced: float = LONG_AGO) -> tuple[Path, Path]:
    """The image ``tiny``, built twice; the folders of both."""
    images = home.folder("images")
    current, earlier = images / CURRENT, images / EARLIER
    for folder in (current, earlier):
        folder.mkdir()
        fake = write_image(folder, "disk")
        content: dict[str, Any] = yaml.safe_load(fake.read_text())
        fake.unlink()
    for key in ("disk", "kernel", "initrd", "key"):
        content[key] = f"{CURRENT}/{content[key]}"
    (images / "tiny.yaml").write_text(yaml.safe_dump(content))
    for path in (images / "tiny.yaml", current / "disk.img", current, earlier):
        os.utime(path, (replaced, replaced))
    return current, earlier


@contextmanager
def living_run(home: Home, image_disk: Path | None = None) -> Iterator[None]:
    """A run, with a guest that reads from *image_disk*."""
    with runs.new_run(home.folder("runs")) as (folder, _):
        if image_disk is not None:
            (folder / "guest").mkdir()
            about: dict[str, Any] = {
                "name": "guest",
                "image": "tiny",
                "image_disk": str(image_disk),
                "uuid": "",
                "hypervisor": "qemu",
            }
            about |= {"pid": os.getpid(), "owner": os.getpid(), "started": time.time()}
            (folder / "guest" / RECORD).write_text(json.dumps(about))
        yield


def write_layer(home: Home, key: str, base: Path, name: str) -> Path:
    """A layer over the disk *base*."""
    folder = home.folder("layers") / key
    folder.mkdir()
    manifest = write_image(folder, "manifest")
    content: dict[str, Any] = yaml.safe_load(manifest.read_text())
    disk = qcow2(folder / "layer.qcow2", os.path.relpath(base, folder))
    digest = known_digest(base, home.folder("checked"))
    content |= {"name": name, "disk": disk.name, "size": disk.stat().st_size, "sha256": digest_of(disk)}
    manifest.write_text(yaml.safe_dump(content | {"extends": {"image": base.parent.name, "sha256": [digest]}}))
    (folder / "manifest.img").unlink()
    return folder
