"""A small CD, in the place of an installer's ``mini.iso``."""

from __future__ import annotations

import io
from pathlib import Path

import pycdlib

LABEL = "MINI"
FILE = "hello.txt"
CONTENT = b"Hello from the CD\n"


def write_mini_iso(path: Path) -> Path:
    """Write an ISO 9660 image with the one file `FILE` to *path*, and return that; nothing boots from it."""
    iso = pycdlib.PyCdlib()
    # With Rock Ridge, Linux shows the file's name as it is written here.
    iso.new(interchange_level=1, vol_ident=LABEL, rock_ridge="1.09")
    iso.add_fp(io.BytesIO(CONTENT), len(CONTENT), f"/{FILE.upper()};1", rr_name=FILE)
    iso.write(str(path))
    iso.close()
    return path
