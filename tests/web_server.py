"""An HTTP server that publishes disks as three distributions do, and misbehaves when it is asked to."""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath


@dataclass
class Site:
    """What a server publishes, and how it does that.

    Attributes:
        url: its address, without the last slash.
        files: the content at each path.
        requests: each path that was asked for, with the header ``Range``.
        cut: after how many bytes of a disk the connection breaks, for each of the next requests.
        drip: bytes per tenth of a second; 0 for all at once.
        ranges: whether it knows Range.
        status: the answer in the place of the file, for each of the next requests.
        tagged: whether it sends ETag.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    drip: int = 0
    ranges: bool = True
    status: list[int] = field(default_factory=list)
    tagged: bool = True

    def add(self, path: str, content: bytes) -> str:
        """Publish *content* at *path*; return the SHA-256."""
        self.files[path] = content
        return hashlib.sha256(content).hexdigest()

    def count(self, name: str) -> int:
        """How often a file of this name was asked for."""
        return sum(PurePosixPath(path).name == name for path, _ in self.requests)


def lay_out(site: Site, disk: bytes) -> None:
    """Publish *disk* as Debian, Ubuntu and Fedora do."""
    debian = "/images/cloud/bookworm/latest"
    site.add(f"{debian}/debian-12-genericcloud-amd64.qcow2", disk)
    digest = hashlib.sha512(disk).hexdigest()
    other = "0" * 128
    site.add(
        f"{debian}/SHA512SUMS",
        f"{other}  debian-12-generic-amd64.qcow2\n{digest}  debian-12-genericcloud-amd64.qcow2\n".encode(),
    )
    ubuntu = "/releases/noble/release"
    site.add(f"{ubuntu}/ubuntu-24.04-server-cloudimg-amd64.img", disk)
    digest = hashlib.sha256(disk).hexdigest()
    site.add(f"{ubuntu}/SHA256SUMS", f"{digest} *ubuntu-24.04-server-cloudimg-amd64.img\n".encode())
    fedora = "/pub/fedora/linux/releases/42/Cloud/x86_64/images"
    name = "Fedora-Cloud-Base-Generic-42-1.1.x86_64.qcow2"
    site.add(f"{fedora}/{name}", disk)
    site.add(
        f"{fedora}/Fedora-Cloud-42-1.1-x86_64-CHECKSUM",
        f"# {name}: {len(disk)} bytes\nSHA256 ({name}) = {digest}\n".encode(),
    )


MIRRORS = {
    "https://cloud.debian.org/": "/",
    "https://cloud-images.ubuntu.com/": "/",
    "https://download.fedoraproject.org/": "/",
}


def mirrors(site: Site) -> list[tuple[str, str]]:
    """The site in the place of the distributions' own."""
    return [(begin, site.url + path) for begin, path in MIRRORS.items()]


@contextmanager
def serving(site: Site, host: str = "127.0.0.1") -> Iterator[Site]:
    """Serve *site* until the end of the block."""
    with ThreadingHTTPServer((host, 0), _handler(site)) as server:
        server.daemon_threads = True
        site.url = f"http://{host}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def dripping(begin: bytes) -> Iterator[str]:
    """A server that answers each request with *begin*, and then with a byte now and then; its host and port."""
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(begin)
            while not over.wait(0.05):
                connection.sendall(b"x")

    def accept(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not over.is_set():
                threading.Thread(target=drip, args=[server.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=[server], daemon=True).start()
        host, port = server.getsockname()
        try:
            yield f"{host}:{port}"
        finally:
            over.set()
            server.shutdown(socket.SHUT_RDWR)


def _handler(site: Site) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            site.requests.append((self.path, self.headers.get("Range", "")))
            # apt asks for /./Packages.
            content = site.files.get(posixpath.normpath(self.path))
            if site.status:
                self.send_error(site.status.pop(0))
                return
            if content is None:
                self.send_error(404)
                return
            tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            start = self._start(content, tag)
            if start is None:
                return
            if site.tagged:
                self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self._send(content[start:], len(content))

        def _send(self, rest: bytes, size: int) -> None:
            # Files of checksums are small.
            if site.cut and size > 1 << 15:
                self.wfile.write(rest[: site.cut.pop(0)])
                self.wfile.flush()
                self.close_connection = True
                return
            step = site.drip if site.drip and size > 1 << 15 else len(rest) or 1
            for at in range(0, len(rest), step):
                if site.drip:
                    time.sleep(0.1)
                self.wfile.write(rest[at : at + step])

        def _start(self, content: bytes, tag: str) -> int | None:
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if not wanted or not site.ranges or self.headers.get("If-Range", tag) != tag:
                self.send_response(200)
                return 0
            start = int(wanted[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            return start

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Print nothing."""

    return Handler
