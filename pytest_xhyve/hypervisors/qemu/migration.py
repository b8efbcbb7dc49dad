"""Write the state of a machine under QEMU to a file, and load it (docs/devel/migration.rst in QEMU's sources)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO, Any

from pytest_xhyve.hypervisors.qemu.qmp import QmpClient, QmpError
from pytest_xhyve.model.clock import monotonic

_ENDED = ("completed", "failed", "cancelled")
_POLL_SECONDS = 0.002
_SECONDS = 120.0
# QEMU's own limit is meant for a network.
_BYTES_PER_SECOND = 1 << 40


def save_state(qmp: QmpClient, path: Path) -> None:
    """Write the state of a stopped machine to the file at *path*.

    Raises:
        QmpError: QEMU cannot save it, or did not in time; the message contains the reason.
        OSError: the file cannot be written.
    """
    qmp.execute("migrate-set-parameters", **{"max-bandwidth": _BYTES_PER_SECOND})
    with path.open("wb") as state:
        qmp.send_file("state", state.fileno())
    qmp.execute("migrate", uri="fd:state")
    end = monotonic() + _SECONDS
    while (done := qmp.execute("query-migrate"))["status"] not in _ENDED:
        if monotonic() > end:
            raise QmpError(f"it did not save the machine within {_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)
    if done["status"] != "completed":
        raise QmpError(done.get("error-desc") or "it gave no reason")
    # QEMU refuses to let the machine run on before this.
    while qmp.execute("query-status")["status"] == "finish-migrate":
        if monotonic() > end:
            raise QmpError(f"it did not finish within {_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)


def load_state(qmp: QmpClient, state: IO[Any]) -> None:
    """Load the state in the open file *state* into a machine that waits for it; the machine stays stopped.

    Raises:
        QmpError: QEMU cannot load it, or did not in time.
    """
    qmp.send_file("state", state.fileno())
    qmp.execute("migrate-incoming", uri="fd:state")
    end = monotonic() + _SECONDS
    while qmp.execute("query-status")["status"] == "inmigrate":
        if monotonic() > end:
            raise QmpError(f"it did not load the saved state within {_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)
