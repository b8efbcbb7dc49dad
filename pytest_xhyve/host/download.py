"""Download a file: resumed after a break, checked while it comes, never half there."""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_xhyve.host.digesting_file import DigestingFile
from pytest_xhyve.host.http_pace import LEAST_BYTES, Pace
from pytest_xhyve.host.vanishing import size_of
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.values import format_size

_CHUNK = 1 << 20
_SILENCE_SECONDS = 30.0
_TRIES = 5
_PAUSE_SECONDS = 0.5
_REPORT_SECONDS = 5.0
_AGENT = "pytest-xhyve"
_RANGE_NOT_SATISFIABLE = 416
_PARTIAL = 206
# What a try later may cure.
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class _Broken(Exception):
    """The connection broke, or the server does not answer now; another try may succeed."""


class _Shorter(_Broken):
    """The file at the server is shorter than what is there of it, or all of it is there."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """What the content of a file must have.

    Attributes:
        kind: ``sha256`` or ``sha512``.
        digest: in hexadecimal.
    """

    kind: str
    digest: str


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a download.

    Attributes:
        silence: seconds without an answer, or of waiting in which less than `LEAST_BYTES` come, after which the
            connection counts as broken.
        tries: how often it is tried again without having got further.
        pause: seconds before the second try; each further one waits twice as long.
    """

    silence: float = _SILENCE_SECONDS
    tries: int = _TRIES
    pause: float = _PAUSE_SECONDS

    @classmethod
    def of_factor(cls, factor: float) -> Limits:
        """The usual ones, with *factor* times the silence."""
        return cls(silence=_SILENCE_SECONDS * factor)


def download(
    url: str,
    target: Path,
    checksum: Checksum,
    report: Callable[[str], None],
    limits: Limits = Limits(),  # it is frozen
) -> None:
    """Download *url* to *target*, which appears when all of it is there and has the *checksum*.

    What a break or a killed process has left beside *target* is continued, if the file at *url* is still the same.

    Args:
        url: http, https or file; the environment's proxies apply.
        target: the new file.
        checksum: what its content must have.
        report: called with a line for the progress.
        limits: the limits of time.

    Raises:
        ImageError: the file is not there, does not come, or has another checksum; the message states which.
        OSError: the file cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    progress = _Progress(url, report)
    failures = 0
    while True:
        before = size_of(part)
        try:
            digest = _fetch(url, part, checksum.kind, progress, limits)
            break
        except _Broken as error:
            if isinstance(error, _Shorter):
                part.unlink()
            failures = 1 if size_of(part) - before >= LEAST_BYTES else failures + 1
            if failures >= limits.tries:
                raise ImageError(
                    f"cannot download {url}: {error} (tried {limits.tries} times)\n"
                    "  look at the network, the proxy (https_proxy) or the mirror\n"
                    f"  {format_size(size_of(part))} are there, and the next try goes on from there"
                ) from error
            time.sleep(limits.pause * 2 ** (failures - 1))
    if digest != checksum.digest:
        part.unlink()
        raise ImageError(
            f"{url} has another checksum: its {checksum.kind.upper()} is {digest}, but {checksum.digest} was expected\n"
            "  the file was altered, or replaced by a newer one; nothing of it is kept"
        )
    part.chmod(0o400)
    part.replace(target)


def fetch_text(url: str, limits: Limits = Limits(), most: int = 4 << 20) -> bytes:
    """The content of the small file at *url*.

    Raises:
        ImageError: it is not there, does not come, or has more than *most* bytes.
    """
    for attempt in range(limits.tries):
        try:
            with _opened(url, {}, limits) as answer:
                content = _read(answer, most + 1)
        except _Broken as error:
            if attempt + 1 == limits.tries:
                raise ImageError(f"cannot download {url}: {error} (tried {limits.tries} times)") from error
            time.sleep(limits.pause * 2**attempt)
        else:
            if len(content) > most:
                raise ImageError(f"{url} has more than {most} bytes, which is too much for a file of checksums")
            return content
    raise AssertionError("the last attempt returns or raises")


def _fetch(url: str, part: Path, kind: str, progress: _Progress, limits: Limits) -> str:
    """Get what is missing in *part*; return the digest of the whole file, which the disk has then."""
    headers = {"Accept-Encoding": "identity"}
    tag = part.with_name(f"{part.name}.tag")
    have = size_of(part)
    known = tag.read_text() if have and tag.exists() else ""
    if have and known:
        # If-Range: only if the file is still the same, else all of it (RFC 9110, section 13.1.5).
        headers |= {"Range": f"bytes={have}-", "If-Range": known}
    with _opened(url, headers, limits) as answer:
        goes_on = answer.status == _PARTIAL
        digest = hashlib.new(kind)
        if goes_on:
            with part.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        else:
            have = 0
            tag.unlink(missing_ok=True)
            # A weak tag does not prove that the bytes are the same (RFC 9110, section 8.8.1).
            etag = answer.headers.get("ETag", "")
            mark = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")
            part.write_bytes(b"")
            if mark:
                tag.write_text(mark)
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        with part.open("ab") as end, DigestingFile(end, digest) as sink:
            got = 0
            while chunk := _read(answer, _CHUNK, once=True):
                sink.write(chunk)
                got += len(chunk)
                progress.show(have + got, total)
            sink.finish()
    if total is not None and size_of(part) != total:
        raise _Broken(f"the connection ended at byte {size_of(part)} of {total}")
    tag.unlink(missing_ok=True)
    return digest.hexdigest()


def _read(answer: Any, most: int, *, once: bool = False) -> bytes:
    """Up to *most* bytes: as many as there are, or only what comes first if *once*.

    Raises:
        _Broken: the connection broke, or is too slow.
    """
    try:
        content: bytes = answer.read1(most) if once else answer.read(most)
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(_reason(error)) from error
    return content


@contextmanager
def _opened(url: str, headers: dict[str, str], limits: Limits) -> Iterator[Any]:
    request = urllib.request.Request(url, headers={"User-Agent": _AGENT, **headers})  # noqa: S310  # as below
    try:
        # The caller checks the scheme.
        answer = Pace(limits.silence).opener().open(request, timeout=limits.silence)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _RANGE_NOT_SATISFIABLE:
            raise _Shorter("the file at the server is shorter than before") from error
        if error.code in _TRANSIENT:
            raise _Broken(f"the server answers {error.code} {error.reason}") from error
        raise ImageError(
            f"cannot download {url}: the server answers {error.code} {error.reason}\n"
            "  the file may have moved: look at its folder with a browser"
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise _Broken(_reason(reason if isinstance(reason, Exception) else error)) from error
    with answer:
        yield answer


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the server does not answer"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class _Progress:
    """Reports every few seconds how much is there."""

    def __init__(self, url: str, report: Callable[[str], None]) -> None:
        self._name = url.rpartition("/")[2]
        self._report = report
        self._last = monotonic()

    def show(self, have: int, total: int | None) -> None:
        if monotonic() - self._last < _REPORT_SECONDS:
            return
        self._last = monotonic()
        whole = "" if not total else f" of {format_size(total)} ({100 * have // total} %)"
        self._report(f"  {self._name}: {format_size(have)}{whole}")
