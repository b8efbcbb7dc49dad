"""An image goes from one cache folder to another over pipes, as it goes over ssh."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_images import write_image

from pytest_xhyve.host.digests import digest_of
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.pipe_wire import Disconnected, PipeWire
from pytest_xhyve.images.exporting import Export, describe
from pytest_xhyve.images.layers import saved_manifest
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.images.transfer import receive_image, send_image
from pytest_xhyve.model.errors import XhyveError

_SECONDS = 5.0


@pytest.fixture
def other(tmp_path: Path) -> Home:
    return Home(tmp_path / "other")


@pytest.fixture
def export(new_home: Home) -> Export:
    folder = new_home.folder("images") / "own-0123456789ab"
    folder.mkdir()
    manifest = write_image(folder, "own", size=6 << 20, sha256=None)
    # More than the pieces that are sent before one is confirmed.
    (folder / "own.img").write_bytes(os.urandom(6 << 20))
    content = manifest.read_text() + f"sha256: {digest_of(folder / 'own.img')}\n"
    manifest.write_text(content)
    return describe(read_manifest(manifest), new_home.folder("checked"))


@contextmanager
def wires(seconds: float = _SECONDS) -> Iterator[tuple[PipeWire, PipeWire, list[int]]]:
    """Both ends of a connection, and the descriptors of the second one."""
    (here_in, there_out), (there_in, here_out) = os.pipe(), os.pipe()
    fds = [here_in, here_out, there_in, there_out]
    try:
        yield PipeWire(here_in, here_out, seconds), PipeWire(there_in, there_out, seconds), fds[2:]
    finally:
        for fd in fds:
            try:
                os.close(fd)
            except OSError:
                # The test has closed it.
                continue


def transfer(export: Export, other: Home, said: list[str], *, name: bool = True) -> Path:
    with wires() as (here, there, _):
        receiver = threading.Thread(target=receive_image, args=(there, other))
        receiver.start()
        try:
            return Path(send_image(export, here, "there", said.append, name=name))
        finally:
            receiver.join(_SECONDS)


def test_image_is_sent_once(export: Export, other: Home) -> None:
    said: list[str] = []
    manifest = transfer(export, other, said)
    assert read_manifest(manifest).sha256 == export.image.files["disk"].sha256
    assert saved_manifest("own", other.path) == manifest
    assert said[0] == "sending own to there: own.img, 6 MiB"
    assert said[-1] == "there has own now"
    said.clear()
    assert transfer(export, other, said) == manifest
    assert said == []


def test_name_stays_with_the_other_host(export: Export, other: Home) -> None:
    manifest = transfer(export, other, [], name=False)
    assert manifest.is_file()
    assert saved_manifest("own", other.path) is None


def test_error_of_the_other_host_is_reported(export: Export, other: Home) -> None:
    (other.path).mkdir()
    (other.path / "layers").write_text("")
    with pytest.raises(XhyveError, match=r"^there: cannot use the cache folder .*: File exists"):
        transfer(export, other, [])


def test_disk_that_changes_meanwhile_is_refused(export: Export, other: Home) -> None:
    path = export.contents[export.image.files["disk"].sha256].path
    path.write_bytes(os.urandom(6 << 20))
    with pytest.raises(XhyveError, match=r"^there: a file of own is damaged"):
        transfer(export, other, [])
    assert not list(other.path.glob("layers/*/manifest.yaml"))


def test_sender_that_goes_away(export: Export, other: Home) -> None:
    with wires() as (here, there, _):
        receiver = threading.Thread(target=receive_image, args=(there, other))
        receiver.start()
        request = {"protocol": 1, "image": export.image.to_dict(), "name": True}
        here.send(json.dumps(request).encode())
        assert export.image.files["disk"].sha256 in json.loads(here.receive())["missing"]
        here.send(b"\x28\xb5")
        os.close(here._writing)
        receiver.join(_SECONDS)
        assert not receiver.is_alive()
    assert not [path for path in other.path.glob("layers/*") if path.is_dir()]


def test_receiver_that_goes_away(export: Export) -> None:
    with wires() as (here, there, fds):

        def answer_and_go() -> None:
            there.receive()
            there.send(json.dumps({"missing": [export.image.files["disk"].sha256]}).encode())
            there.receive()
            for fd in fds:
                os.close(fd)

        receiver = threading.Thread(target=answer_and_go)
        receiver.start()
        with pytest.raises(Disconnected, match="has ended the connection"):
            send_image(export, here, "there", print, name=True)
        receiver.join(_SECONDS)


def test_receiver_that_is_silent(export: Export) -> None:
    with wires(0.2) as (here, _there, _), pytest.raises(Disconnected, match=r"silent for 0\.2 s"):
        send_image(export, here, "there", print, name=True)


@pytest.mark.parametrize("answer", [b"", b"x", b"[]", b"\xff"])
def test_answer_that_is_none(export: Export, answer: bytes) -> None:
    with wires() as (here, there, _):
        there.send(answer)
        with pytest.raises(XhyveError, match="something else than an answer"):
            send_image(export, here, "there", print, name=True)


def test_banner_of_a_login_shell_is_an_error(export: Export) -> None:
    """What a shell prints before the command runs comes first."""
    with wires() as (here, _, (_, writing)):
        os.write(writing, b"Welcome to host2!\n")
        with pytest.raises(Disconnected, match="something else than messages"):
            send_image(export, here, "there", print, name=True)


@pytest.mark.parametrize("protocol", [0, 2, "1", None])
def test_other_version(export: Export, other: Home, protocol: object) -> None:
    with wires() as (here, there, _):
        here.send(json.dumps({"protocol": protocol, "image": {}, "name": True}).encode())
        receive_image(there, other)
        assert "another version of pytest-xhyve" in json.loads(here.receive())["error"]
