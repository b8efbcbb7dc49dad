"""A cluster of three members under a one-way partition: whatever it acknowledged has to stay, in one order for all.

To copy: clients on the host that work through `forward` while `partition(…, one_way=True)` cuts the LAN, and a check of
what they have seen that needs no knowledge of the guests.
"""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_xhyve import Guests

pytestmark = pytest.mark.xhyve_guests(nodes=3)

KEY = base64.b64encode(b"register").decode()
_LIMIT = 10.0
_WAIT = 180.0


@dataclass(frozen=True, slots=True)
class Operation:
    """A request that was answered.

    Attributes:
        began: when the client sent it.
        ended: when the client had the answer.
        is_write: whether it was a write.
        value: what it wrote or read.
        revision: the revision of etcd in which *value* was written.
    """

    began: float
    ended: float
    is_write: bool
    value: str
    revision: int


class Client:
    """A client of the member that is reached at *host* and *port*."""

    def __init__(self, name: str, host: str, port: int) -> None:
        self._name = name
        self._url = f"http://{host}:{port}/v3"
        self._writes = 0
        self.seen: list[Operation] = []
        """The requests that were answered; a write that was not may have happened or not."""

    def request(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request to the member.

        Raises:
            OSError: the member refused it, or did not answer.
            HTTPException: it did not finish its answer.
        """
        with urllib.request.urlopen(  # noqa: S310  # the address is http
            f"{self._url}/{path}", json.dumps(body).encode(), timeout=_LIMIT
        ) as answer:
            content: dict[str, Any] = json.load(answer)
        return content

    def is_leader(self) -> bool:
        """Whether the member answers, and takes itself for the leader."""
        try:
            status = self.request("maintenance/status", {})
        except OSError:
            return False
        return bool(status["header"]["member_id"] == status.get("leader"))

    def write(self) -> None:
        """Write a value that is written only once."""
        self._writes += 1
        value = f"{self._name}-{self._writes}"
        began = time.monotonic()
        answer = self.request("kv/put", {"key": KEY, "value": base64.b64encode(value.encode()).decode()})
        self._add(began, value, answer["header"]["revision"], is_write=True)

    def read(self) -> None:
        """Read the value; etcd's reads are linearizable unless a client requests others."""
        began = time.monotonic()
        (found,) = self.request("kv/range", {"key": KEY})["kvs"]
        self._add(began, base64.b64decode(found["value"]).decode(), found["mod_revision"], is_write=False)

    def _add(self, began: float, value: str, revision: str, *, is_write: bool) -> None:
        self.seen.append(Operation(began, time.monotonic(), is_write, value, int(revision)))

    def work(self, end: threading.Event) -> None:
        """Write and read in turn until *end* is set, whatever the member answers."""
        while not end.wait(0.05):
            try:
                self.write()
                self.read()
            except (OSError, http.client.HTTPException):
                pass


@contextmanager
def working(clients: Sequence[Client]) -> Iterator[None]:
    """All *clients* work in the block."""
    end = threading.Event()
    threads = [threading.Thread(target=client.work, args=[end]) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join(3 * _LIMIT)


def find_contradiction(history: Sequence[Operation]) -> str | None:
    """The first operation that no order of all operations explains; None if the history is linearizable.

    etcd's revisions are the order. It has to be the order of time, too: what began after another operation had ended
    must not be of an earlier revision. And each revision has only one value.
    """
    values: dict[int, str] = {}
    newest = Operation(0.0, 0.0, False, "", 0)
    ended = sorted(history, key=lambda operation: operation.ended)
    for operation in sorted(history, key=lambda operation: operation.began):
        while ended and ended[0].ended < operation.began:
            newest = max(newest, ended.pop(0), key=lambda each: each.revision)
        if operation.revision < newest.revision + operation.is_write:
            return f"{operation} began after {newest} had ended"
        if values.setdefault(operation.revision, operation.value) != operation.value:
            return f"{operation}, and revision {operation.revision} is {values[operation.revision]}"
    writes = {operation.revision: operation for operation in history if operation.is_write}
    for operation in history:
        write = writes.get(operation.revision)
        if write is not None and operation.ended < write.began:
            return f"{operation} had ended before {write} began"
    return None


def wait_for(condition: Callable[[], bool], what: str) -> float:
    """Wait until *condition* is true, and return when that was; *what* is for the error."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < _WAIT, f"{what} within {_WAIT:g} s"
        time.sleep(0.2)
    return time.monotonic()


@pytest.mark.parametrize("heard", [True, False], ids=["leader hears nothing", "nothing is heard of the leader"])
def test_one_way_partition_loses_no_acknowledged_write(etcd: Guests, heard: bool) -> None:
    """Clients of all members write and read one key, while nothing arrives at the leader, or nothing from it."""
    clients = {guest.name: Client(f"{guest.name}-{heard}", *guest.forward(2379)) for guest in etcd}
    (lost,) = (name for name, client in clients.items() if client.is_leader())
    others = [name for name in clients if name != lost]

    def has_written(names: Sequence[str], after: float) -> bool:
        return any(each.is_write and each.began > after for name in names for each in list(clients[name].seen))

    with working(list(clients.values())):
        wait_for(lambda: has_written([lost], 0), "the leader acknowledged no write")
        etcd.partition(others if heard else [lost], [lost] if heard else others, one_way=True)
        elected = wait_for(lambda: any(clients[name].is_leader() for name in others), "the others elected no leader")
        wait_for(lambda: has_written(others, elected), "the new leader acknowledged no write")
        time.sleep(5)
        etcd.heal()
        healed = time.monotonic()
        wait_for(lambda: has_written([lost], healed), "the lost member acknowledged no write")
    for client in clients.values():
        client.read()
    history = [operation for client in clients.values() for operation in client.seen]
    assert find_contradiction(history) is None
    assert sum(each.is_write for each in history) > 20


def test_contradictions_are_found() -> None:
    """The check itself: of histories that no register has."""
    first = Operation(0, 1, True, "a", 1)
    second = Operation(2, 3, True, "b", 2)
    read = Operation(4, 5, False, "b", 2)
    assert find_contradiction([first, second, read]) is None
    assert find_contradiction([first, second, Operation(2.5, 5, False, "a", 1)]) is None
    for wrong in (
        Operation(4, 5, False, "a", 1),
        Operation(4, 5, False, "c", 2),
        Operation(4, 5, True, "c", 2),
        Operation(1, 1.5, False, "b", 2),
    ):
        assert find_contradiction([first, second, wrong]) is not None
