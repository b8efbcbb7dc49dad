"""The folder of a run's guests, and the guardian that owns their processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pytest_xhyve.host import runs
from pytest_xhyve.host.guardian import INTERRUPTED, Guardian, guardian_lost
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.errors import XhyveError


class RunGuardian:
    """Starts the guardian when it is first needed, and another one if it dies or if its folder is removed.

    Safe to use from several threads.

    Args:
        home: the cache folder.
        artifacts: the folder of the run's artifacts, for the consoles of guests that it could not end; or None.
    """

    def __init__(self, home: Home, artifacts: Path | None) -> None:
        self._home = home
        self._artifacts = artifacts
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._run: tuple[Path, int] | None = None
        self._guardian: Guardian | None = None

    def close(self) -> None:
        """End the guardian and with it all guests, and remove the folder."""
        self._stack.close()

    @property
    def folder(self) -> Path | None:
        """The folder of this run's guests; None before the first guest is requested."""
        return None if self._run is None else self._run[0]

    def get(self) -> tuple[Guardian, Path]:
        """The guardian and the folder of this run; the first call removes dead runs and starts the guardian."""
        with self._lock:
            folder = self._home.folder("runs")
            if self._run is not None and self._guardian is not None and not self._guardian.is_alive():
                # On macOS, the kernel does not end the hypervisors when their guardian dies.
                runs.kill_hypervisors_of(self._run[0])
                self._guardian = None
            if self._run is not None and not self._run[0].is_dir():
                # Something has removed it. Its guests end with it; later ones get another folder and guardian.
                self._run = self._guardian = None
            if self._run is None:
                runs.reap(folder)
                self._run = self._stack.enter_context(runs.new_run(folder))
            run_folder, lock = self._run
            if self._guardian is None:
                interrupted = None if self._artifacts is None else self._artifacts / INTERRUPTED
                self._guardian = Guardian(run_folder, lock, interrupted)
                self._stack.callback(self._guardian.close)
            return self._guardian, run_folder

    @contextmanager
    def explain_loss(self) -> Iterator[None]:
        """Replace an error in the block by its cause if the guardian is dead or the folder of the guests is gone."""
        try:
            yield
        except (XhyveError, OSError) as error:
            if self._guardian is not None and not self._guardian.is_alive():
                raise guardian_lost() from error
            if self._run is not None and not self._run[0].is_dir():
                raise XhyveError(
                    f"the folder of this run's guests, {self._run[0]}, was removed while they ran\n"
                    "  the next guest gets a new one; find out what removes files there: a job that cleans up old "
                    "files, `git clean`, or a test"
                ) from error
            raise
