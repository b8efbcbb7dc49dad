from __future__ import annotations

import pytest

from pytest_xhyve.guest.listeners import find_addresses, find_inodes, find_loopback_address

# As `cat /proc/net/tcp /proc/net/tcp6` prints it: SSH on any address, a server on [::1], a connection.
TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0F02000A:0016 0202000A:9C5E 01 00000000:00000000 02:000AFC79 00000000     0        0 2 2 0 20 4 30 10 -1
   2: 0F02000A:1F91 0202000A:9C5E 01 00000000:00000000 02:000AFC79 00000000     0        0 2 2 0 20 4 30 10 -1
  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000

"""
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
NOWHERE = "00000000"
NOWHERE6 = "0" * 32
LOOPBACK6 = "0" * 24 + "01000000"


def row(place: str, port: int, state: str = "0A") -> str:
    return f"   0: {place}:{port:04X} {'0' * len(place)}:0000 {state} 00000000:00000000 00:00000000 00000000     0\n"


@pytest.mark.parametrize(
    ("rows", "address"),
    [
        ([row("0100007F", 80)], "127.0.0.1"),
        ([row("3500007F", 80)], "127.0.0.53"),
        ([row(LOOPBACK6, 80)], "::1"),
        ([row(LOOPBACK6, 80), row("0100007F", 80)], "127.0.0.1"),
        ([row("0" * 16 + "FFFF0000" + "0100007F", 80)], "127.0.0.1"),
        ([row(NOWHERE, 80)], None),
        ([row("0100007F", 80), row(NOWHERE6, 80)], None),
        ([row("0F02000A", 80)], None),
        # Another port, and a connection in the place of a listener.
        ([row("0100007F", 81)], None),
        ([row("0100007F", 80, "01")], None),
        ([], None),
    ],
)
def test_service_on_the_loopback_interface(rows: list[str], address: str | None) -> None:
    assert find_loopback_address(HEAD + "".join(rows), 80) == address


def test_any_output_is_no_error() -> None:
    assert find_loopback_address("cat: not found\n\udcff", 80) is None


def test_ports_that_listen() -> None:
    assert {port for port in (22, 80, 0x1F90, 0x1F91, 0x9C5E) if find_addresses(TABLE, port)} == {22, 0x1F90}
    assert find_inodes(TABLE, 22) == {1}
    assert find_inodes(TABLE, 0x1F90) == set()
    hostile = "what a hostile guest prints 0A\nx y:zz z 0A\n\udcff"
    assert not any(find_addresses(hostile, port) for port in range(1 << 8))
