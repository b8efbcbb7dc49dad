"""The guest's serial port: every byte since power-on, and the errors of a guest that dies."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_exponential

from pytest_xhyve.model.errors import WaitTimeout

TAIL_LINES = 20
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])|\r")
_SETTLED_SECONDS = 0.1

# The kernel's last message (kernel/panic.c in Linux).
_PANIC = rb"Kernel panic - not syncing: [^\r\n]*"
# Messages of a guest that cannot boot: of the kernel (arch/x86/mm/fault.c and arch/x86/kernel/dumpstack.c in Linux),
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
# The last message of a kernel that does not run any more (kernel/reboot.c in Linux).
_ENDING = re.compile(rb"reboot: (?:Restarting system|System halted)[^\r\n]*")


@dataclass(frozen=True, slots=True)
class ConsoleError:
    """Something bad on the console.

    Attributes:
        line: what was said.
        panic: whether the kernel has stopped; the other errors only keep a guest from booting.
    """

    line: str
    panic: bool


class Console:
    """A guest's serial port.

    Args:
        log: the file that the hypervisor writes.
        send: types bytes on the port.
        is_over: whether nothing will come any more, as the machine is off.
    """

    def __init__(self, log: Path, send: Callable[[bytes], None], is_over: Callable[[], bool] = lambda: False) -> None:
        self._log = log
        self._send = send
        self._is_over = is_over
        self.begin = 0
        """Where what this guest has said begins, in bytes; before it stands what its template had said."""

    @property
    def path(self) -> Path:
        """The file that holds every byte; it lives as long as the guest."""
        return self._log

    @property
    def text(self) -> str:
        """The output so far, without terminal escapes; bytes that are not UTF-8 are replaced."""
        return self.text_from(0)

    def text_from(self, start: int) -> str:
        """As `text`, from the byte *start* of the port's output on."""
        return _ESCAPES.sub("", self.read(start).decode(errors="replace"))

    @property
    def size(self) -> int:
        """How many bytes came so far."""
        try:
            return self._log.stat().st_size
        except FileNotFoundError:
            return 0

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

        The kernel prints a panic twice, before the trace and after it; the cause stands before the first.
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
            WaitTimeout: it did not come in time, or will not come, as the guest is off.
        """
        __tracebackhide__ = True
        expression = re.compile(pattern, re.MULTILINE)
        over: list[bool] = []

        def look() -> re.Match[str] | None:
            # Asked first: what came with the end is still read.
            over[:] = [self._is_over()]
            return expression.search(self.text)

        waiting = Retrying(
            retry=retry_if_result(lambda match: match is None and not over[0]),
            wait=wait_exponential(multiplier=0.01, max=0.2),
            stop=stop_after_delay(timeout),
            retry_error_callback=lambda _: None,
        )
        match: re.Match[str] | None = waiting(look)
        if match is None:
            why = "will not come: the guest is off" if over[0] else f"did not come within {timeout:g} s"
            tail = "\n".join(f"    {line}" for line in self.tail().splitlines()) or "    (nothing)"
            raise WaitTimeout(f"{pattern!r} is not on the console, and {why}\n  its last lines:\n{tail}")
        return match

    def watch(self, saw: Callable[[bytes], None] = lambda _: None) -> ConsoleWatch:
        """A look-out for trouble from here on; *saw* gets what comes, a line's beginning once more with its end."""
        return ConsoleWatch(self, self.size, saw)


class ConsoleWatch:
    """Searches the output of a console from *start* on for errors; each byte is read once."""

    def __init__(self, console: Console, start: int, saw: Callable[[bytes], None]) -> None:
        self._console = console
        self._saw = saw
        self._read = start
        self._line = b""
        self.ending: str | None = None
        """The message by which the kernel reports that it halts or restarts, if it did; the caller resets it."""

    def find_error(self) -> ConsoleError | None:
        """The worst sign of trouble since the last call, once what belongs to it has come too."""
        new = self._console.read(self._read)
        self._read += len(new)
        seen = self._line + new
        self._saw(seen)
        for ending in _ENDING.finditer(seen):
            self.ending = _ESCAPES.sub("", ending[0].decode(errors="replace")).strip()
        found = list(_TROUBLE.finditer(seen))
        # A message may arrive in two pieces, and is reported once.
        end = found[-1].end() if found else 0
        self._line = seen[max(end, seen.rfind(b"\n") + 1) :]
        if not found:
            return None
        self._let_it_finish()
        match = next((match for match in found if match["panic"]), found[0])
        line = _ESCAPES.sub("", match[0].decode(errors="replace")).strip()
        return ConsoleError(line, panic=match["panic"] is not None)

    def _let_it_finish(self) -> None:
        """Wait for the trace that follows, until the console is silent for a moment."""
        end = time.monotonic() + 20 * _SETTLED_SECONDS
        length = -1
        while (now := self._console.size) != length and time.monotonic() < end:
            length = now
            time.sleep(_SETTLED_SECONDS)
