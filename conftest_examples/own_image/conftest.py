"""An image of one's own for all tests of this folder: its manifest, and `xhyve_image`, which chooses it.

To copy: the manifest; where disk, kernel and key lie beside it for good, it is a file, and nothing here but its path.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

# The folder that this is written to has all files that it names.
MANIFEST = """\
name: mine                # the word for it in reports; the name of this file, otherwise
disk: disk.img            # cloned for each guest, never written; paths are relative to this file
format: raw               # or qcow2
size: {size}              # with this, and `sha256:`, a disk that was truncated or altered is refused
kernel: vmlinuz           # a bzImage, as /boot/vmlinuz-*
initrd: initrd.img        # may be left out
cmdline: {cmdline} my.word=1
user: root                # who logs in
key: id_ed25519           # with this private key, which has no passphrase
host_keys:                # and only to a guest that shows one of these
  - {host_key}
cpus: 2                   # where neither a test nor an option asks for another
memory: 384M
cpu: x86-64-v2            # what its programs need
"""


@pytest.fixture(scope="session")
def xhyve_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of the manifest."""
    # So that this runs anywhere, its files are those of an image of the catalog; `build` prints where that is.
    command = [sys.executable, "-m", "pytest_xhyve.cli", "build", "debian12"]
    built = Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
    base = yaml.safe_load(built.read_text())

    folder = tmp_path_factory.mktemp("mine")
    for name, key in {"disk.img": "disk", "vmlinuz": "kernel", "initrd.img": "initrd", "id_ed25519": "key"}.items():
        (folder / name).symlink_to((built.parent / base[key]).resolve())
    manifest = folder / "mine.yaml"
    manifest.write_text(
        MANIFEST.format(size=base["size"], cmdline=base["cmdline"], host_key=base["host_keys"][0].strip())
    )
    return manifest
