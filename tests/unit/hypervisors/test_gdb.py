"""The stub that writes a restored guest's memory, and where in it things stand."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from pytest_xhyve.hypervisors.qemu.gdb import GdbError, GdbStub
from pytest_xhyve.hypervisors.qemu.snapshots import _address, _find_identity
from pytest_xhyve.model.architecture import ARM64, X86_64
from pytest_xhyve.model.machine import Machine, Nic


class FakeStub:
    """A gdbstub that answers each packet with the next of its answers, and keeps what it was asked.

    What it gets is checked as the protocol has it (gdb's manual, appendix E).
    """

    def __init__(self, channel: socket.socket, answers: list[bytes]) -> None:
        self.asked: list[str] = []
        self._channel = channel
        self._answers = answers
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._channel, self._channel.makefile("rb") as stream:
            for answer in self._answers:
                packet = b""
                while len(packet) < 3 or packet[-3:-2] != b"#":
                    byte = stream.read(1)
                    if not byte:
                        return
                    packet += b"" if byte == b"+" and not packet else byte
                body = packet[1:-3]
                assert packet[:1] == b"$"
                assert int(packet[-2:], 16) == sum(body) & 0xFF
                self.asked.append(body.decode())
                for place in range(len(answer)):
                    # In the smallest of pieces.
                    self._channel.sendall(answer[place : place + 1])
            # The last answer is acknowledged too.
            stream.read()

    def join(self) -> None:
        self._thread.join(10)


OK = b"+$OK#9a"


class TestGdbStub:
    @pytest.fixture
    def stub(self) -> Iterator[Callable[[list[bytes]], tuple[socket.socket, FakeStub]]]:
        with ExitStack() as stack:

            def start(answers: list[bytes]) -> tuple[socket.socket, FakeStub]:
                ours, theirs = socket.socketpair()
                stack.enter_context(theirs)
                fake = FakeStub(theirs, answers)
                stack.callback(fake.join)
                return stack.enter_context(ours), fake

            yield start

    def test_memory_is_written_by_its_physical_address(
        self, stub: Callable[[list[bytes]], tuple[socket.socket, FakeStub]]
    ) -> None:
        channel, fake = stub([OK, OK, OK])
        gdb = GdbStub(channel, 5.0)
        gdb.write(0x1_0000_0010, b"\x00\xffAB")
        gdb.detach()
        assert fake.asked == ["Qqemu.PhyMemMode:1", "M100000010,4:00ff4142", "D"]

    @pytest.mark.parametrize("answer", [b"+$E14#aa", b"+$#00"])
    def test_a_refusal_is_told(
        self, stub: Callable[[list[bytes]], tuple[socket.socket, FakeStub]], answer: bytes
    ) -> None:
        channel, _ = stub([OK, answer])
        gdb = GdbStub(channel, 5.0)
        with pytest.raises(GdbError, match="M10,1:00"):
            gdb.write(0x10, b"\0")

    def test_a_stub_that_knows_no_physical_addresses_is_told(
        self, stub: Callable[[list[bytes]], tuple[socket.socket, FakeStub]]
    ) -> None:
        channel, _ = stub([b"+$#00"])
        with pytest.raises(GdbError, match="PhyMemMode"):
            GdbStub(channel, 5.0)

    def test_a_stub_that_is_gone_is_told(self) -> None:
        ours, theirs = socket.socketpair()
        with ours:
            theirs.sendall(b"+$O")
            theirs.shutdown(socket.SHUT_WR)
            with theirs, pytest.raises(GdbError, match="closed the connection"):
                GdbStub(ours, 5.0)

    def test_silence_is_told(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, pytest.raises(GdbError, match="does not answer"):
            GdbStub(ours, 0.05)


def test_identity_is_found_in_memory(tmp_path: Path) -> None:
    uuid = UUID("12345678-1234-4234-8234-0203040506ff")
    ram = tmp_path / "ram"
    ram.write_bytes(b"..." + bytes.fromhex("020a0b0c0d0e") + uuid.bytes_le + str(uuid).encode() + uuid.bytes)
    machine = Machine("a", uuid, 1, "", 1 << 30, (), (Nic("02:0a:0b:0c:0d:0e"),), None, None, "")
    assert _find_identity(machine, ram) == {"text": [25], "table": [9], "mac": [3]}
    # What is a part of the UUID is left alone, for it is that in the memory, too.
    other = replace(machine, nics=(Nic("02:03:04:05:06:ff"),))
    assert _find_identity(other, ram)["mac"] == []


GIB = 1 << 30


@pytest.mark.parametrize(
    ("offset", "memory", "address"),
    [
        (0, GIB, 0),
        (GIB - 1, GIB, GIB - 1),
        # Up to 2.75 GiB all of it lies below the hole; from there on, no more than 2 GiB do.
        (0xAFEF_FFFF, 0xAFF0_0000, 0xAFEF_FFFF),
        (0x7FFF_FFFF, 0xB000_0000, 0x7FFF_FFFF),
        (0x8000_0000, 0xB000_0000, 4 * GIB),
        (0x7FFF_FFFF, 8 * GIB, 0x7FFF_FFFF),
        (3 * GIB, 8 * GIB, 5 * GIB),
        (8 * GIB - 1, 8 * GIB, 10 * GIB - 1),
    ],
)
def test_memory_behind_the_hole_for_devices_has_other_addresses(offset: int, memory: int, address: int) -> None:
    assert _address(offset, memory, X86_64) == address


@pytest.mark.parametrize("memory", [GIB, 8 * GIB])
def test_memory_for_arm64_is_in_one_part(memory: int) -> None:
    assert _address(0, memory, ARM64) == GIB
    assert _address(memory - 1, memory, ARM64) == GIB + memory - 1
