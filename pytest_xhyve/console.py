"""The guest's serial port: every byte from the first, and what a dying guest says on it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_exponential

from pytest_xhyve.errors import WaitTimeout

TAIL_LINES = 20
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])|\r")
_SETTLED_SECONDS = 0.1

# The kernel's last words (kernel/panic.c in Linux).
_PANIC = rb"Kernel panic - not syncing: [^\r\n]*"
# What a guest says that will not come up: the kernel (arch/x86/mm/fault.c and arch/x86/kernel/dumpstack.c in Linux),
# systemd (emergency.service, rescue.service), and the shells of initramfs-tools and dracut.
_BOOT_TROUBLE = (
    rb"BUG: (?:unable to handle|kernel NULL pointer)[^\r\n]*"
    rb"|Oops: [0-9a-f]{4} [^\r\n]*"
    rb"|general protection fault[,:][^\r\n]*"
    rb"|You are in (?:emergency|rescue) mode"
    rb"|Cannot open access to console, the root account is locked"
    rb"|^\(initramfs\) "
    rb"|^dracut:/#"
)
_TROUBLE = re.compile(rb"(?P<panic>" + _PANIC + rb")|" + _BOOT_TROUBLE, re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something bad on the console.

    Attributes:
        line: what was said.
        panic: whether the kernel has stopped; the rest only keeps a guest from coming up.
    """

    line: str
    panic: bool


class Console:
    """A guest's serial port.

    Args:
        log: the file that the hypervisor writes.
        send: types bytes on the port.
    """

    def __init__(self, log: Path, send: Callable[[bytes], None]) -> None:
        self._log = log
        self._send = send

    @property
    def path(self) -> Path:
        """The file that holds every byte; it lives as long as the guest."""
        return self._log

    @property
    def text(self) -> str:
        """All that came so far, without terminal escapes; what is no UTF-8 is replaced."""
        return _ESCAPES.sub("", self.read().decode(errors="replace"))

    def read(self, start: int = 0) -> bytes:
        """The bytes from *start*; none before the first came."""
        try:
            with self._log.open("rb") as log:
                log.seek(start)
                return log.read()
        except FileNotFoundError:
            return b""

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last *lines* lines."""
        return "\n".join(self.text.rstrip().splitlines()[-lines:])

    def around(self, line: str, before: int = 10, after: int = 6) -> str:
        """The lines around the last one that has *line* in it; the last lines when none has.

        The kernel says a panic twice, before the trace and after it; what led to it stands before the first.
        """
        lines = self.text.rstrip().splitlines()
        said = (number for number, text in enumerate(lines) if line in text and "---[ end " not in text)
        at = max(said, default=None)
        return self.tail() if at is None else "\n".join(lines[max(0, at - before) : at + after])

    def send(self, text: str) -> None:
        """Type *text*; end a line with a newline."""
        self._send(text.encode())

    def wait_for(self, pattern: str, timeout: float = 60.0) -> re.Match[str]:
        """Wait until the regular expression *pattern* is found in `text`.

        Args:
            pattern: as `re.search` takes it, with `re.MULTILINE`.
            timeout: seconds.

        Raises:
            WaitTimeout: it did not come.
        """
        expression = re.compile(pattern, re.MULTILINE)
        waiting = Retrying(
            retry=retry_if_result(lambda match: match is None),
            wait=wait_exponential(multiplier=0.01, max=0.2),
            stop=stop_after_delay(timeout),
            retry_error_callback=lambda _: None,
        )
        match: re.Match[str] | None = waiting(lambda: expression.search(self.text))
        if match is None:
            raise WaitTimeout(
                f"{pattern!r} did not come on the console within {timeout:g} s; its last lines:\n{self.tail()}"
            )
        return match

    def watch(self) -> ConsoleWatch:
        """A look-out for trouble from here on."""
        return ConsoleWatch(self, len(self.read()))


class ConsoleWatch:
    """Looks for trouble in what a console says from *start* on, reading each byte once."""

    def __init__(self, console: Console, start: int) -> None:
        self._console = console
        self._read = start
        self._line = b""

    def find_trouble(self) -> Trouble | None:
        """The worst sign of trouble since the last call, once what belongs to it has come too."""
        new = self._console.read(self._read)
        self._read += len(new)
        seen = self._line + new
        found = list(_TROUBLE.finditer(seen))
        # A sign may come in two pieces, and is told once.
        end = found[-1].end() if found else 0
        self._line = seen[max(end, seen.rfind(b"\n") + 1) :]
        if not found:
            return None
        self._let_it_finish()
        match = next((match for match in found if match["panic"]), found[0])
        line = _ESCAPES.sub("", match[0].decode(errors="replace")).strip()
        return Trouble(line, panic=match["panic"] is not None)

    def _let_it_finish(self) -> None:
        """Wait for the trace that follows, until the console is silent for a moment."""
        end = time.monotonic() + 20 * _SETTLED_SECONDS
        length = -1
        while (now := len(self._console.read())) != length and time.monotonic() < end:
            length = now
            time.sleep(_SETTLED_SECONDS)
