"""Show on standard error what takes long."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click

from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.text import printable

if TYPE_CHECKING:
    from rich.live import Live
    from rich.spinner import Spinner

DELAY_SECONDS = 2.0
"""An activity that takes less than this is not shown."""


class Progress:
    """Shows activities that take long, and nothing else; safe to use from several threads.

    On a terminal, a line with a spinner and the seconds appears after a delay, and disappears at the end. Otherwise,
    one plain line reports the activity and another one its end, unless `line` has printed something since.

    Args:
        on_terminal: whether standard error is a terminal; None detects it.
        delay: seconds before an activity is shown.
    """

    def __init__(self, *, on_terminal: bool | None = None, delay: float = DELAY_SECONDS) -> None:
        self._on_terminal = _is_terminal() if on_terminal is None else on_terminal
        self._delay = delay
        self._lock = threading.RLock()
        self._current: _Activity | None = None
        self._shown: _Shown | None = None

    @contextmanager
    def activity(self, name: str) -> Iterator[None]:
        """Show the activity *name*, for example ``building tiny``, if the block takes long."""
        activity = _Activity(name)
        timer = threading.Timer(self._delay, self._show, [activity])
        timer.daemon = True
        with self._lock:
            self._current = activity
        timer.start()
        outcome = "failed"
        try:
            yield
            outcome = "done"
        finally:
            timer.cancel()
            with self._lock:
                self._current = None
                if self._shown is not None:
                    shown, self._shown = self._shown, None
                    shown.end(activity, outcome)

    def step(self, text: str) -> None:
        """Show *text* as the current step of the activity, until the next call."""
        with self._lock:
            if self._current is not None:
                self._current.step = text

    def line(self, text: str) -> None:
        """Print a line at once; it stays."""
        with self._lock:
            if self._current is not None:
                self._current.has_lines = True
            if self._shown is None:
                click.echo(printable(text), err=True)
            else:
                self._shown.line(text)

    def _show(self, activity: _Activity) -> None:
        with self._lock:
            if self._current is not activity:
                return
            if self._on_terminal:
                self._shown = _OnTerminal(activity)
            elif not activity.has_lines:
                self._shown = _Plain(activity)


class _Activity:
    """An activity that is running."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.step = ""
        self.has_lines = False
        self._begin = monotonic()

    @property
    def text(self) -> str:
        return f"{self.name}: {self.step}" if self.step else self.name

    @property
    def seconds(self) -> str:
        return f"{monotonic() - self._begin:.0f} s"


class _Shown(Protocol):
    """An activity that is shown."""

    def line(self, text: str) -> None: ...

    def end(self, activity: _Activity, outcome: str) -> None: ...


class _Plain:
    def __init__(self, activity: _Activity) -> None:
        self.line(f"{activity.text} …")

    def line(self, text: str) -> None:
        click.echo(printable(text), err=True)

    def end(self, activity: _Activity, outcome: str) -> None:
        if not activity.has_lines:
            self.line(f"{activity.name}: {outcome} after {activity.seconds}")


class _OnTerminal:
    def __init__(self, activity: _Activity) -> None:
        # Imported only here, because the import is slow and most commands are quick.
        from rich.console import Console  # noqa: PLC0415
        from rich.live import Live  # noqa: PLC0415
        from rich.spinner import Spinner  # noqa: PLC0415

        self._activity = activity
        self._spinner: Spinner = Spinner("dots")
        self._live: Live = Live(
            get_renderable=self._render,
            console=Console(stderr=True),
            refresh_per_second=8,
            transient=True,
            # rich would redirect standard output to standard error.
            redirect_stdout=False,
        )
        self._live.start()

    def line(self, text: str) -> None:
        self._live.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def end(self, activity: _Activity, outcome: str) -> None:  # noqa: ARG002
        self._live.stop()

    def _render(self) -> Spinner:
        from rich.text import Text  # noqa: PLC0415

        self._spinner.update(text=Text(f"{self._activity.text}  {self._activity.seconds}", no_wrap=True))
        return self._spinner


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
