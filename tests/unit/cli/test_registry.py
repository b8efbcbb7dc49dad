"""``pytest-xhyve export`` and ``import`` with an OCI registry, which is a real one."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import oci_registry
import pytest
import yaml
from command_line import run_separately
from fake_images import write_image
from web_server import dripping

from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.images.registry import check_address, pull_image
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import ConfigurationError, XhyveError

needs_registry = pytest.mark.skipif(oci_registry.PROGRAM is None, reason="docker-registry is not installed")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "registry"
    folder.mkdir()
    with oci_registry.running_registry(folder) as address:
        yield address


@pytest.fixture
def other(tmp_path: Path) -> str:
    return str(tmp_path / "other")


@needs_registry
def test_image_comes_back(new_home: Home, tmp_path: Path, registry: str, other: str) -> None:
    manifest = write_image(tmp_path, "own")
    address = f"oci://{registry}/guests/own:1"
    done = run_separately("export", str(manifest), address)
    assert (done.exit_code, "exported own; a private key is in it" in done.stderr) == (0, True), done.stderr
    # Nothing that was compressed for it is left.
    assert not list(new_home.folder("images").glob(".*"))
    done = run_separately("import", address, "--name", "fetched", **{HOME_VARIABLE: other})
    assert done.exit_code == 0, done.stderr
    content = yaml.safe_load(done.stdout)
    assert content["name"] == "fetched"
    assert Path(content["disk"]).is_relative_to(other)
    assert Path(content["disk"]).read_bytes() == (tmp_path / "own.img").read_bytes()
    assert Path(content["key"]).stat().st_mode & 0o777 == 0o600
    again = run_separately("import", address, "--name", "fetched", **{HOME_VARIABLE: other})
    assert (again.exit_code, "importing" in again.stderr) == (0, False)


@needs_registry
def test_damaged_file_is_not_imported(new_home: Home, tmp_path: Path, registry: str, other: str) -> None:
    address = f"oci://{registry}/guests/own:1"
    assert run_separately("export", str(write_image(tmp_path, "own")), address).exit_code == 0
    blobs = tmp_path / "registry" / "storage" / "docker" / "registry" / "v2" / "blobs"
    for blob in blobs.glob("*/*/*/data"):
        content = blob.read_bytes()
        # The files of the image, not the manifest and the description.
        if content.startswith(b"\x28\xb5\x2f\xfd"):
            blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = run_separately("import", address, **{HOME_VARIABLE: other})
    assert (done.exit_code, "is damaged or cut off" in done.stderr) == (255, True), done.stderr
    assert [path.name for path in Path(other).glob("layers/*") if not path.name.endswith(".lock")] == []


@needs_registry
def test_what_is_not_there(new_home: Home, registry: str) -> None:
    begin = monotonic()
    done = run_separately("import", f"oci://{registry}/guests/none:1")
    assert (done.exit_code, "manifest unknown" in done.stderr) == (255, True), done.stderr
    assert monotonic() - begin < 20


@needs_registry
def test_login_of_docker(new_home: Home, tmp_path: Path, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    manifest = str(write_image(tmp_path, "own"))
    with oci_registry.running_registry(folder, asks_for_login=True) as registry:
        address = f"oci://{registry}/guests/own:1"
        done = run_separately("export", manifest, address)
        assert (done.exit_code, "asks for a login" in done.stderr) == (255, True), done.stderr
        (tmp_path / ".docker").mkdir()
        login = base64.b64encode(":".join(oci_registry.LOGIN).encode()).decode()
        (tmp_path / ".docker" / "config.json").write_text(json.dumps({"auths": {registry: {"auth": login}}}))
        done = run_separately("export", manifest, address)
        assert done.exit_code == 0, done.stderr
        done = run_separately("import", address, **{HOME_VARIABLE: other})
        assert done.exit_code == 0, done.stderr


def test_registry_that_is_not_there(new_home: Home, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    begin = monotonic()
    done = run_separately("import", f"oci://127.0.0.1:{port}/guests/own:1")
    assert (done.exit_code, "cannot be used: " in done.stderr) == (255, True), done.stderr
    assert monotonic() - begin < 20


@pytest.mark.parametrize("address", ["oci://", "oci://own", "oci://guests/own:1", "oci://a.b/own", "oci://a.b/o wn:1"])
def test_address_is_not_one(address: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an image in a registry"):
        check_address(address)


@pytest.mark.parametrize("address", ["oci://a.b/own:1", "oci://localhost/own:1", "oci://[::1]:5000/a/b/own:latest"])
def test_address(address: str) -> None:
    assert check_address(address) == address


class _Endless(BaseHTTPRequestHandler):
    """A registry whose manifest has no end."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        if "/manifests/" in self.path:
            with contextlib.suppress(OSError):
                self.wfile.write(b'{"layers": [')
                while True:
                    self.wfile.write(b"0," * 100_000)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_registry_that_answers_without_end(new_home: Home) -> None:
    pytest.importorskip("oras")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Endless) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            with pytest.raises(XhyveError, match="the registry answers with more than 4 MiB"):
                pull_image(f"oci://127.0.0.1:{server.server_address[1]}/guests/own:1", new_home, print)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\nX-Long: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_registry_that_sends_a_byte_now_and_then(new_home: Home, begin: bytes) -> None:
    pytest.importorskip("oras")
    start = monotonic()
    with (
        dripping(begin) as place,
        pytest.raises(XhyveError, match=r"cannot be used: the server sent only \d+ bytes in"),
    ):
        pull_image(f"oci://{place}/guests/own:1", new_home, print, factor=0.5 / 120)
    assert monotonic() - start < 20
