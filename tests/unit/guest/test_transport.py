from __future__ import annotations

import socket
import struct
import threading
import time

import paramiko
import pytest
from loopback_ssh import Server, transport_to
from waiting import becomes

from pytest_xhyve.guest.pulse import HeardSocket
from pytest_xhyve.guest.transport import SerialTransport


class _Ports(Server):
    """Listens on even ports only, opens sessions, and knows no other global request."""

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002
        return paramiko.common.OPEN_SUCCEEDED

    def check_port_forward_request(self, address: str, port: int) -> int | bool:  # noqa: ARG002
        return port % 2 == 0 and port


def test_each_thread_gets_the_answer_to_its_own_request() -> None:
    """While others ask whether the server is alive, which is denied."""
    wrong: list[int] = []
    with transport_to(_Ports(), SerialTransport) as transport:

        def ask(first: int) -> None:
            for port in range(first, first + 50):
                granted = transport.global_request("tcpip-forward", ("127.0.0.1", port)) is not None
                if granted != (port % 2 == 0):
                    wrong.append(port)

        def keep_alive() -> None:
            answers = [transport.global_request("keepalive@openssh.com") for _ in range(100)]
            wrong.extend(0 for answer in answers if answer is not None)

        threads = [threading.Thread(target=ask, args=(first,)) for first in (1000, 2001, 3000)]
        threads += [threading.Thread(target=keep_alive)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
    assert not wrong


@pytest.mark.parametrize("kind", [94, 95])
def test_server_that_ignores_the_window_is_left(kind: int) -> None:
    """paramiko would keep all that it sends, and so fill the host's memory."""
    with transport_to(_Ports(), SerialTransport) as transport:
        channel = transport.open_session(timeout=10)
        # What a hostile server would send; this one's end keeps to the window.
        message = paramiko.Message()
        if kind == 95:
            message.add_int(1)
        message.add_string(bytes(1 << 15))
        table = transport._channel_handler_table  # type: ignore[attr-defined]

        def send() -> None:
            message.rewind()
            table[kind](channel, message)

        # All of the window may be used.
        for _ in range(channel.in_window_size >> 15):
            send()
        with pytest.raises(paramiko.SSHException, match="more than its window allows"):
            send()
        # What is read makes room.
        read = channel.recv if kind == 94 else channel.recv_stderr
        assert len(read(1 << 15)) == 1 << 15
        send()


def test_guest_opens_a_bounded_number_of_connections() -> None:
    """To a server of the test: each takes threads and descriptors."""
    taken: list[paramiko.Channel] = []
    # The server of another test may not have ended yet.
    others = threading.enumerate()
    with transport_to(_Ports(), SerialTransport) as transport:
        transport.request_port_forward("127.0.0.1", 8080, lambda channel, *_: taken.append(channel))
        server = next(
            each
            for each in threading.enumerate()
            if isinstance(each, paramiko.Transport) and each.server_mode and each.is_active() and each not in others
        )
        opened = [channel for _ in range(300) if (channel := opens(server)) is not None]
        assert len(taken) == len(opened) == 256
        # The plugin's own are not refused, and a place becomes free.
        transport.open_session(timeout=10).close()
        taken[0].close()
        opened[0].close()
        assert becomes(lambda: opens(server) is not None, 10)


def opens(server: paramiko.Transport) -> paramiko.Channel | None:
    try:
        return server.open_forwarded_tcpip_channel(("127.0.0.1", 1), ("127.0.0.1", 8080))
    except paramiko.ChannelException:
        return None


def test_packet_of_gigabytes_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        transport = SerialTransport(HeardSocket.adopt(ours))
        # A banner, and the head of a packet that is 4 GiB long.
        theirs.sendall(b"SSH-2.0-x\r\n" + struct.pack(">I", 0xFFFFFFF4) + bytes(4))
        begin = time.monotonic()
        with pytest.raises(paramiko.SSHException, match="announces a packet of"):
            transport.start_client(timeout=20)
        assert time.monotonic() - begin < 10
        transport.close()
