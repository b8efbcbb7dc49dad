"""See whether this process has the files of the host before it, which a library for tests may have replaced."""

from __future__ import annotations

import os
from types import ModuleType

from pytest_xhyve.model.errors import XhyveError


def check_host_files() -> None:
    """Check that this process sees the files of the host.

    Raises:
        XhyveError: pyfakefs has replaced them. Images would be looked for among its files, and the descriptors that it
            gives out are those of other files of this process.
    """
    # It puts an object of its own in the place of each module that reads files.
    if not isinstance(os, ModuleType):
        raise XhyveError(
            "cannot start a guest: the files of this host are replaced by those of pyfakefs\n"
            "  request the guest before `fs`, or start it within `fs.pause()` and `fs.resume()`"
        )
