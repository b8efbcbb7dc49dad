from __future__ import annotations

import threading

from loopback_ssh import Server, transport_to

from pytest_xhyve.guest.transport import SerialTransport


class _Ports(Server):
    """Listens on even ports only, and knows no other global request."""

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
