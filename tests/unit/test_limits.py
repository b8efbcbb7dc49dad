"""Each wait of the package has a limit: the calls that could wait for ever, and what bounds each of them.

A new one fails this test. Before you add it here, give it a limit of its own, or see what ends it. The test knows the
calls by their names; a lock that threads of this process share, and a file that is a pipe, look like any other.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

import pages
import pytest
from call_names import end_of_name

PACKAGE = pages.TOP / "pytest_xhyve"

# Methods that wait until something happens if they get no limit: join of a thread takes none of str's arguments.
WAITING = {"acquire", "communicate", "join", "result", "wait", "wait_for"}
# Calls that need the keyword: for some of them, a limit is never the first argument.
WITH_TIMEOUT = {
    "FileLock",
    "create_connection",
    "_guest.run",
    "guest.run",
    "open_channel",
    "open_session",
    "run_program",
    "subprocess.call",
    "subprocess.check_call",
    "subprocess.check_output",
    "subprocess.run",
    "urlopen",
}
# Methods of sockets, which wait as long as their socket's own limit says, and of selectors and channels.
OF_SOCKETS = {
    "accept",
    "connect",
    "global_request",
    "makefile",
    "recv",
    "recv_exit_status",
    "recv_into",
    "recvmsg",
    "select",
    "send_fds",
    "recv_fds",
    "sendall",
    "sendmsg",
}

SOCKET = "settimeout() on the socket, in the same class or where it is made"
READY = "called once something is there"
LIMITED = "gets its limit as a value, or in the call that acquires it"
SMALL = "a few bytes to a process of ours, which is continued if someone has stopped it"
ANSWERS = "a function of ours, whose waits are all in this list"
SUPERVISED = "runs in supervise(), which has a limit"
DAEMON = "a thread that nothing waits for; it ends with the connection or the process"
INTERACTIVE = "the user at the terminal ends it"
GUEST = "waits for the end of a guest that shall live"
BOUNDED_WORK = "the work that it waits for has limits of its own, or only computes"
OF_THE_TEST = "a command of the test, which has no limit unless the test states one"
GIVEN_AWAY = "a socket that another program uses"

NEVER_BLOCKS = "a socket that was set not to block"
RELEASES = "releases a lock, which never waits"

KNOWN = {
    ("cli/console_client.py", "recv"): {READY: 1},
    ("cli/console_client.py", "select"): {INTERACTIVE: 1, LIMITED: 1},
    ("cli/console_client.py", "sendall"): {SOCKET: 1},
    ("cli/running_shell.py", "subprocess.run"): {INTERACTIVE: 1},
    ("cli/top.py", "select"): {LIMITED: 1},
    ("fleet/cluster.py", "result"): {READY: 2},
    ("fleet/prewarmer.py", "join"): {BOUNDED_WORK: 1},
    ("fleet/prewarmer.py", "wait"): {BOUNDED_WORK: 1},
    ("fleet/queue.py", "fcntl.flock"): {RELEASES: 1},
    ("fleet/resumed_guests.py", "result"): {READY: 2},
    ("fleet/resuming.py", "connect"): {ANSWERS: 1},
    ("guest/agent.py", "recv"): {SOCKET: 1},
    ("guest/agent.py", "sendall"): {SOCKET: 1},
    ("guest/commands.py", "recv_exit_status"): {READY: 1},
    ("guest/commands.py", "sendall"): {DAEMON: 1},
    ("guest/common_network.py", "result"): {ANSWERS: 1},
    ("guest/expose.py", "settimeout"): {DAEMON: 1},
    ("guest/get.py", "result"): {ANSWERS: 3},
    ("guest/guests.py", "guest.run"): {OF_THE_TEST: 1},
    ("guest/guests.py", "result"): {READY: 1},
    ("guest/lans.py", "connect"): {ANSWERS: 1},
    ("guest/login.py", "connect"): {ANSWERS: 1},
    ("guest/power.py", "connect"): {ANSWERS: 2},
    ("guest/pulse.py", "global_request"): {DAEMON: 1},
    ("guest/pulse.py", "recv"): {SOCKET: 1},
    ("guest/put.py", "result"): {ANSWERS: 1},
    ("guest/restarts.py", "connect"): {ANSWERS: 1},
    ("guest/restarts.py", "sendall"): {SOCKET: 1},
    ("guest/send.py", "result"): {ANSWERS: 1},
    ("guest/testinfra_backend.py", "_guest.run"): {OF_THE_TEST: 1},
    ("guest/ssh.py", "connect"): {SUPERVISED: 1},
    ("guest/ssh.py", "recv"): {READY: 2},
    ("guest/streams.py", "recv"): {READY: 1},
    ("guest/streams.py", "recv_exit_status"): {READY: 1},
    ("guest/streams.py", "sendall"): {SOCKET: 1},
    ("guest/sync.py", "result"): {ANSWERS: 2},
    ("guest/transport.py", "global_request"): {SUPERVISED: 1, DAEMON: 1},
    ("guest/tunnel.py", "join"): {DAEMON: 1},
    ("host/acceptor.py", "accept"): {DAEMON: 1},
    ("host/channel.py", "recv_fds"): {READY: 1},
    ("host/channel.py", "send_fds"): {SMALL: 1},
    ("host/channel.py", "sendall"): {SOCKET: 1},
    ("host/digesting_file.py", "result"): {BOUNDED_WORK: 4},
    ("host/guardian_process.py", "recv"): {READY: 1},
    ("host/guardian_process.py", "select"): {GUEST: 1, LIMITED: 1},
    ("host/nfs_server.py", "recv"): {DAEMON: 1},
    ("host/nfs_server.py", "sendall"): {DAEMON: 1},
    ("host/owned_guest.py", "recv"): {READY: 1},
    ("hypervisors/qemu/gdb.py", "recv"): {SOCKET: 1},
    ("hypervisors/qemu/gdb.py", "sendall"): {SOCKET: 2},
    ("hypervisors/qemu/machine.py", "sendall"): {SOCKET: 1},
    ("hypervisors/qemu/monitor.py", "connect"): {SOCKET: 1},
    ("hypervisors/qemu/qmp.py", "recv"): {SOCKET: 1},
    ("hypervisors/qemu/qmp.py", "send_fds"): {SOCKET: 1},
    ("hypervisors/qemu/qmp.py", "sendall"): {SOCKET: 1},
    ("hypervisors/vfkit/driver.py", "settimeout"): {GIVEN_AWAY: 2},
    ("hypervisors/vfkit/rest.py", "connect"): {SOCKET: 1},
    ("hypervisors/xhyve/driver.py", "settimeout"): {GIVEN_AWAY: 1},
    ("hypervisors/xhyve/vmnet.py", "FileLock"): {LIMITED: 1},
    ("lan/port.py", "recv"): {NEVER_BLOCKS: 1},
    ("lan/port.py", "recv_into"): {NEVER_BLOCKS: 1},
    ("lan/switch_process.py", "select"): {GUEST: 1},
    ("lan/port.py", "sendmsg"): {NEVER_BLOCKS: 1},
}


def waits(source: str) -> Iterator[str]:
    """The name of each call in *source* that may wait for ever, as far as the call itself shows."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        last, both = end_of_name(node.func)
        keywords = {each.arg: each.value for each in node.keywords}
        limit = keywords.get("timeout")
        has_limit = limit is not None and not _is_none(limit)
        is_method = isinstance(node.func, ast.Attribute)
        if is_method and last in WAITING:
            if not has_limit and (not node.args or _is_none(node.args[0])):
                yield last
        elif {last, both} & WITH_TIMEOUT:
            if not has_limit:
                yield both if both in WITH_TIMEOUT else last
        elif is_method and last in OF_SOCKETS:
            yield last
        elif both == "fcntl.flock" and "LOCK_NB" not in ast.unparse(node):
            yield both
        elif _is_endless(last, node):
            yield last


def _is_endless(name: str, call: ast.Call) -> bool:
    if name == "settimeout":
        return _is_none(call.args[0])
    return name == "Retrying" and all(each.arg != "stop" for each in call.keywords)


def _is_none(node: ast.expr) -> bool:
    return ast.unparse(node) in ("None", "-1")


def test_every_wait_has_a_limit_or_a_reason() -> None:
    found: Counter[tuple[str, str]] = Counter()
    for path in PACKAGE.rglob("*.py"):
        found.update((path.relative_to(PACKAGE).as_posix(), name) for name in waits(path.read_text()))
    assert found == {place: sum(reasons.values()) for place, reasons in KNOWN.items()}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("thread.join()", ["join"]),
        ("', '.join(names)", []),
        ("thread.join(5)", []),
        ("process.wait(timeout=None)", ["wait"]),
        ("process.wait(timeout=left)", []),
        ("event.wait(None)", ["wait"]),
        ("lock.acquire(timeout=-1)", ["acquire"]),
        ("subprocess.run(argv, check=False)", ["subprocess.run"]),
        ("subprocess.run(argv, timeout=None)", ["subprocess.run"]),
        ("subprocess.run(argv, timeout=60)", []),
        ("guest.run('sync')", ["guest.run"]),
        ("guest.run('sync', timeout=60)", []),
        ("FileLock(path)", ["FileLock"]),
        ("fcntl.flock(fd, fcntl.LOCK_EX)", ["fcntl.flock"]),
        ("fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)", []),
        ("channel.recv(10)", ["recv"]),
        ("Retrying(wait=x)", ["Retrying"]),
        ("Retrying(wait=x, stop=y)", []),
    ],
)
def test_such_calls_are_found(source: str, found: list[str]) -> None:
    assert list(waits(source)) == found
