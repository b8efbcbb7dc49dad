"""The guest's serial port: its output, and the messages of a kernel or an init system that cannot go on.

A guest can print without end. So each read is bounded, and each byte is searched once. The guardian removes the middle
of a log that is too long from the disk.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tenacity import Retrying, retry_if_result, wait_exponential

from pytest_xhyve.host.bounded_log import HEAD_BYTES, TAIL_BYTES
from pytest_xhyve.host.vanishing import size_of
from pytest_xhyve.model.clock import monotonic, stop_at
from pytest_xhyve.model.errors import WaitTimeout

TAIL_LINES = 20
_OMITTED = "\n[{} bytes omitted]\n"
_CHUNK = 1 << 16
# An error may arrive in two pieces, as may a match of `wait_for`; neither is longer than this.
_OVERLAP_BYTES = 1 << 12
_MATCH_BYTES = 1 << 16
_LAST_BYTES = 1 << 18
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
    """An error that the console shows.

    Attributes:
        line: the message.
        panic: whether the kernel has stopped; the other errors only keep a guest from booting.
    """

    line: str
    panic: bool


class Console:
    """A guest's serial port.

    Args:
        log: the file that the hypervisor writes.
        send: types bytes on the port.
        is_over: whether the machine is off, so that it prints no more.
    """

    def __init__(self, log: Path, send: Callable[[bytes], None], is_over: Callable[[], bool] = lambda: False) -> None:
        self._log = log
        self._send = send
        self._is_over = is_over
        self.begin = 0
        """The first byte of this guest's own output; the output before it is of its template."""

    @property
    def path(self) -> Path:
        """The file with the output; it is removed with the guest."""
        return self._log

    @property
    def text(self) -> str:
        """The output so far, without terminal escapes; bytes that are not UTF-8 are replaced.

        Of more than 8 MiB, the middle is omitted.
        """
        return self.text_from(0)

    def text_from(self, start: int) -> str:
        """Like `text`, but only from the byte *start* on."""
        return _decode(self.read(start))

    @property
    def size(self) -> int:
        """How many bytes arrived so far."""
        return size_of(self._log)

    def read(self, start: int = 0) -> bytes:
        """The output from the byte *start* on; if the log exceeds 8 MiB, its middle is omitted."""
        return self._read(start, self.size)

    def _read(self, start: int, size: int) -> bytes:
        """The output from the byte *start* to the byte *size*, without the middle if that is too much."""
        if size <= HEAD_BYTES + TAIL_BYTES or start >= size - TAIL_BYTES:
            return self.read_part(start, max(0, size - start))
        head = self.read_part(start, max(0, HEAD_BYTES - start))
        tail = self.read_part(size - TAIL_BYTES, TAIL_BYTES)
        omitted = size - start - len(head) - len(tail)
        return head + _OMITTED.format(omitted).encode() + tail

    def read_part(self, start: int, most: int) -> bytes:
        """At most *most* bytes of the output, from the byte *start* on; none if there is no output there yet."""
        try:
            with self._log.open("rb") as log:
                log.seek(start)
                return log.read(most)
        except FileNotFoundError:
            return b""

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last *lines* lines."""
        last = _decode(self.read_part(max(0, self.size - _LAST_BYTES), _LAST_BYTES))
        return "\n".join(last.rstrip().splitlines()[-lines:])

    def around(self, line: str, before: int = 10, after: int = 6) -> str:
        """The lines around the last one that contains *line*; if none does, the last lines.

        The kernel prints a panic twice, before the trace and after it; the cause is above the first.
        """
        lines = self.text.rstrip().splitlines()
        found = (number for number, text in enumerate(lines) if line in text and "---[ end " not in text)
        at = max(found, default=None)
        return self.tail() if at is None else "\n".join(lines[max(0, at - before) : at + after])

    def send(self, text: str) -> None:
        """Type *text*; end a line with a newline.

        Raises:
            XhyveError: the guest does not take it within 10 s, or is off.
        """
        self._send(text.encode())

    def wait_for(self, pattern: str, timeout: float = 60.0) -> re.Match[str]:
        """Wait until the regular expression *pattern* is found in `text`.

        Args:
            pattern: as `re.search` takes it, with `re.MULTILINE`.
            timeout: the limit in seconds.

        Raises:
            WaitTimeout: the console did not show it in time, or the guest is off.
        """
        __tracebackhide__ = True
        expression = re.compile(pattern, re.MULTILINE)
        over: list[bool] = []
        read = self.size
        data = self._read(0, read)

        def look() -> re.Match[str] | None:
            nonlocal data, read
            # Asked first: the last output before the end is still read.
            over[:] = [self._is_over()]
            new = self.read_part(read, TAIL_BYTES)
            read += len(new)
            data += new
            match = expression.search(_decode(data))
            if match is None and len(data) > _MATCH_BYTES:
                # From here on, only new output is searched, with the lines before it.
                data = data[data.rfind(b"\n", 0, len(data) - _MATCH_BYTES) + 1 :][-2 * _MATCH_BYTES :]
            return match

        waiting = Retrying(
            retry=retry_if_result(lambda match: match is None and not over[0]),
            wait=wait_exponential(multiplier=0.01, max=0.2),
            stop=stop_at(monotonic() + timeout),
            retry_error_callback=lambda _: None,
        )
        match: re.Match[str] | None = waiting(look)
        if match is None:
            why = "will not come: the guest is off" if over[0] else f"did not come within {timeout:g} s"
            tail = "\n".join(f"    {line}" for line in self.tail().splitlines()) or "    (nothing)"
            raise WaitTimeout(f"{pattern!r} is not on the console, and {why}\n  its last lines:\n{tail}")
        return match

    def watch(self, saw: Callable[[bytes], None] = lambda _: None) -> ConsoleWatch:
        """Search new output for errors; *saw* gets this output, the beginning of a line once more with its end."""
        return ConsoleWatch(self, self.size, saw)


class ConsoleWatch:
    """Searches the output of a console from *start* on for errors; each byte is read once."""

    def __init__(self, console: Console, start: int, saw: Callable[[bytes], None]) -> None:
        self._console = console
        self._saw = saw
        self._read = start
        self._line = b""
        self.ending: str | None = None
        """The message with which the kernel has halted or restarted, or None; the caller resets it."""

    def find_error(self) -> ConsoleError | None:
        """The worst error since the last call, once its trace is complete."""
        found = None
        # If a guest prints faster than the plugin reads, a part is skipped.
        self._read = max(self._read, self._console.size - TAIL_BYTES)
        end = self._console.size
        while self._read < end and (new := self._console.read_part(self._read, min(_CHUNK, end - self._read))):
            self._read += len(new)
            error = self._search(self._line + new)
            if error is not None and (found is None or (error.panic and not found.panic)):
                found = error
        if found is not None:
            self._let_it_finish()
        return found

    def _search(self, seen: bytes) -> ConsoleError | None:
        self._saw(seen)
        for ending in _ENDING.finditer(seen):
            self.ending = _decode(ending[0]).strip()
        found = list(_TROUBLE.finditer(seen))
        # A message may arrive in two pieces, and is reported once.
        end = found[-1].end() if found else 0
        self._line = seen[max(end, seen.rfind(b"\n") + 1, len(seen) - _OVERLAP_BYTES) :]
        if not found:
            return None
        match = next((match for match in found if match["panic"]), found[0])
        line = _decode(match[0][:_OVERLAP_BYTES]).strip()
        return ConsoleError(line, panic=match["panic"] is not None)

    def _let_it_finish(self) -> None:
        """Wait for the trace that follows, until the console is silent for a moment."""
        end = monotonic() + 20 * _SETTLED_SECONDS
        length = -1
        while (now := self._console.size) != length and monotonic() < end:
            length = now
            time.sleep(_SETTLED_SECONDS)


def _decode(data: bytes) -> str:
    return _ESCAPES.sub("", data.decode(errors="replace"))
