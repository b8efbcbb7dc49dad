"""vmnet, macOS's network for guests: one set-up at a time, and what it says when it fails."""

from __future__ import annotations

import contextlib
from pathlib import Path

from filelock import FileLock, Timeout

from pytest_xhyve.model.errors import XhyveError

REFUSAL = "virtio_net: Could not create vmnet interface"
"""How xhyve begins the one message that it has for every failure (pci_virtio_net_vmnet.c)."""

MOST_INTERFACES = 32
"""How many interfaces vmnet makes on one host."""

_FOLDER = Path("/var/tmp/pytest-xhyve")  # noqa: S108  # shared by all users of the host, who know it by this name


class VmnetLock:
    """vmnet's set-up, which one process of the host does at a time, whoever's it is.

    The lock may be released by another thread than the one that took it.
    """

    def __init__(self, folder: Path = _FOLDER) -> None:
        self._lock = FileLock(folder / "vmnet.lock", mode=0o666, thread_local=False)

    def begin(self, timeout: float) -> None:
        """Wait up to *timeout* seconds until nobody else sets vmnet up.

        Raises:
            XhyveError: somebody did all the time, or the lock cannot be made.
        """
        path = Path(self._lock.lock_file)
        try:
            path.parent.mkdir(exist_ok=True)
            # Not sticky: there, Linux lets nobody open what another user has made (proc_sys_fs(5), protected_regular).
            with contextlib.suppress(PermissionError):
                path.parent.chmod(0o777)
            self._lock.acquire(timeout)
        except Timeout as error:
            raise XhyveError(
                f"waited {timeout:.0f} s while others set up vmnet, which one at a time can\n"
                f"  `lsof {path}` shows who does; start fewer guests at once (--xhyve-max-guests), or kill what hangs"
            ) from error
        except OSError as error:
            raise XhyveError(
                f"cannot lock {path}: {error.strerror}\n  remove it, or have its owner give it mode 0666"
            ) from error

    def end(self) -> None:
        """Let the next one set vmnet up; nothing happens when that was done before."""
        self._lock.release(force=True)
