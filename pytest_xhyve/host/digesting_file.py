"""Write a file whose digest is wanted, and that a power cut must not damage.

While one thread writes, another one computes the digest, and a third one writes to the disk (fsync(2)). So little of
either is left at the end.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Protocol, Self

# Handing a piece to another thread takes as long as the digest of some KiB.
_BATCH = 1 << 20
# How many batches may wait for the digest, in memory.
_WAITING = 8
# How much is written before the disk gets it.
_UNSYNCED = 16 << 20


class Digest(Protocol):
    """The part of the objects of `hashlib` that is used here."""

    def update(self, data: bytes, /) -> None: ...


class DigestingFile:
    """Writes to *file*; meanwhile, other threads compute the *digest*, and write the file to the disk.

    After `finish`, the digest is that of all that was written, and the disk has it. At the end of the block, no thread
    uses the file or the digest any more.

    Args:
        file: a file that is open for writing.
        digest: gets what is written, in this order.
    """

    def __init__(self, file: IO[bytes], digest: Digest) -> None:
        self._file = file
        self._digest = digest
        self._batch: list[bytes] = []
        self._batched = self._unsynced = 0
        self._hashing: deque[Future[None]] = deque()
        self._syncing: Future[None] | None = None
        self._threads = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)

    def write(self, chunk: bytes) -> None:
        """Write *chunk*.

        Raises:
            OSError: the file cannot be written.
        """
        self._file.write(chunk)
        self._batch.append(chunk)
        self._batched += len(chunk)
        self._unsynced += len(chunk)
        if self._batched >= _BATCH:
            self._hash()
        if self._unsynced >= _UNSYNCED and (self._syncing is None or self._syncing.done()):
            self._sync()

    def finish(self) -> None:
        """Wait until the digest is complete and the disk has all.

        Raises:
            OSError: the file cannot be written.
        """
        self._file.flush()
        self._hash()
        if self._syncing is not None:
            self._syncing.result()
        os.fsync(self._file.fileno())
        while self._hashing:
            self._hashing.popleft().result()

    def _hash(self) -> None:
        if len(self._hashing) >= _WAITING:
            self._hashing.popleft().result()
        self._hashing.append(self._threads[0].submit(self._update, self._batch))
        self._batch, self._batched = [], 0

    def _update(self, batch: list[bytes]) -> None:
        for chunk in batch:
            self._digest.update(chunk)

    def _sync(self) -> None:
        if self._syncing is not None:
            # Each error is reported once (fsync(2)).
            self._syncing.result()
        self._unsynced = 0
        self._syncing = self._threads[1].submit(os.fsync, self._file.fileno())
