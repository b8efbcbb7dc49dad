"""Build a disk, and print where it is: ``python -m disks NAME`` in the folder of tests."""

from __future__ import annotations

import sys

from disks.build import find
from pytest_xhyve.host.home import Home

sys.stdout.write(f"{find(sys.argv[1], Home.of_user())}\n")
