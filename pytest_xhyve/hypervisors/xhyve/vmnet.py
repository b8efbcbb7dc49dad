"""vmnet, macOS's network for guests: a lock for its set-up, and xhyve's message when it fails."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from pytest_xhyve.model.errors import XhyveError

REFUSAL = "virtio_net: Could not create vmnet interface"
"""The start of xhyve's only message for all failures of vmnet (pci_virtio_net_vmnet.c)."""

MAX_INTERFACES = 32
"""The number of interfaces that vmnet creates on one host."""

_FOLDER = Path("/var/tmp/pytest-xhyve")  # noqa: S108  # all users of the host share this folder


class VmnetLock:
    """A lock for vmnet's set-up: only one process of the host, of any user, may hold it.

    Another thread than the one that acquired the lock may release it.
    """

    def __init__(self, folder: Path = _FOLDER) -> None:
        self._lock = FileLock(folder / "vmnet.lock", mode=0o666, thread_local=False)

    def acquire(self, timeout: float) -> None:
        """Wait up to *timeout* seconds for the lock.

        Raises:
            XhyveError: other processes held the lock all the time, or its file cannot be created.
        """
        path = Path(self._lock.lock_file)
        try:
            path.parent.mkdir(exist_ok=True)
            _share(path.parent)
            self._lock.acquire(timeout)
        except Timeout as error:
            raise XhyveError(
                f"waited {timeout:.0f} s for other processes to set up vmnet; only one process at a time can do that\n"
                f"  `lsof {path}` shows the process; start fewer guests at once (--xhyve-max-guests), or kill the "
                "process if it hangs"
            ) from error
        except OSError as error:
            raise XhyveError(
                f"cannot lock {path}: {error.strerror}\n  remove the file, or let its owner set its mode to 0666"
            ) from error

    def release(self) -> None:
        """Release the lock; if it was released before, do nothing."""
        self._lock.release(force=True)


def _share(folder: Path) -> None:
    """Let all users write to *folder*, if it is this user's.

    Raises:
        OSError: it is not a folder, but for example a symbolic link, which another user may have put there.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(opened).st_uid == os.geteuid():
            # Not sticky: in a sticky folder, Linux forbids users to open each other's files (proc_sys_fs(5),
            # protected_regular).
            os.fchmod(opened, 0o777)
    finally:
        os.close(opened)
