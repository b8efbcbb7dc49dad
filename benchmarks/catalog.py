"""Layers, downloads and synchronized folders, each against the same by hand.

Run it as ``python -m benchmarks.catalog``. The layers are built in a cache folder of its own, which is removed at the
end. What is compared runs in turn. Ends with status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import http.server
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import product
from benchmarks.measure import Clock, Summary
from benchmarks.promise import Promise, at_most, show
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.download import Checksum, download
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.spec import GuestSpec

_PACKAGE = "xhyve-hello"
_FILES = 2000
_DOWNLOAD = 256 << 20
# Of these, a shorter series shows more of the host than of the two.
_DOWNLOADS, _STARTS = 9, 15
_LAYERS = ("one", "two", "three")


def main() -> int:
    """Measure, print, and return whether all targets are met, as an exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    # So that a benchmark that is ended takes its guests with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with product.new_home("tiny", "debian12") as home, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        promises = [
            _install_a_package(home, folder, rounds),
            *_use_layers(home, folder, rounds),
            _download(folder, rounds),
            _synchronize(home, folder, rounds),
        ]
    print(f"medians of {rounds} rounds\n{show(promises)}")
    return 0 if all(promise.is_met for promise in promises) else 1


def _install_a_package(home: Home, folder: Path, rounds: int) -> Promise:
    """A layer with one package, against the same steps in a guest that runs already."""
    repository = _make_repository(folder / "repository")
    layer, by_hand = [], []
    with product.fleet_in(home) as fleet:
        # The template, from which both guests are restored.
        product.start_ready(fleet, "debian12", start="warm").remove()
    for number in range(rounds):
        recipe = folder / f"hello-{number}"
        recipe.mkdir()
        shutil.copytree(repository, recipe / "repository")
        (recipe / "sources.list").write_text("deb [trusted=yes] file:/root/repository ./\n")
        (recipe / "recipe.yaml").write_text(
            f"extends: debian12\nfiles: {{/root/repository: repository, /etc/apt/sources.list: sources.list}}\n"
            f"packages: [{_PACKAGE}]\nrun: [echo {number} > /root/number]\n"
        )
        with product.fleet_in(home) as fleet:
            # The guardian has started, and the image is checked.
            with fleet.start(ForegroundRequest(GuestSpec(image="debian12"))) as guest:
                clock = Clock()
                guest.put(repository, "/root/repository")
                guest.put(recipe / "sources.list", "/etc/apt/sources.list")
                guest.run(f"apt-get update && apt-get install -y {_PACKAGE}", timeout=300)
                guest.run(f"echo {number} > /root/number")
                guest.shutdown()
                by_hand.append(clock.lap())
            clock = Clock()
            fleet.catalog.find(str(recipe))
            layer.append(clock.lap())
    ours, theirs = Summary.of(layer).median, Summary.of(by_hand).median
    return at_most(f"a layer with a package ({ours:.1f} s), by hand {theirs:.1f} s", ours / theirs, 1.2, "x")


def _make_repository(folder: Path) -> Path:
    """A flat repository with one small package (apt-secure(8): ``trusted=yes``)."""
    control = folder.with_name("tree") / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    folder.mkdir()
    control.write_text(
        f"Package: {_PACKAGE}\nVersion: 1\nArchitecture: all\nMaintainer: benchmarks\nDescription: nothing\n"
    )
    package = folder / f"{_PACKAGE}.deb"
    command = ["dpkg-deb", "--root-owner-group", "--build", str(control.parents[1]), str(package)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    content = package.read_bytes()
    (folder / "Packages").write_text(
        f"{control.read_text()}Filename: ./{package.name}\nSize: {len(content)}\n"
        f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
    )
    return folder


def _use_layers(home: Home, folder: Path, rounds: int) -> Iterator[Promise]:
    """Three layers that are there: in a run's start, and under a restored guest."""
    base = "tiny"
    for name in _LAYERS:
        (folder / name).mkdir()
        (folder / name / "recipe.yaml").write_text(f"extends: {base}\nrun: [echo {name} >> /root/layers]\n")
        base = str(folder / name)
    found: list[float] = []
    warm: dict[str, list[float]] = {"tiny": [], base: []}
    with product.fleet_in(home) as fleet:
        for image in warm:
            # The layers, and the templates.
            product.start_ready(fleet, image, start="warm").remove()
    for _ in range(max(rounds, _STARTS)):
        with product.fleet_in(home) as fleet:
            clock = Clock()
            fleet.catalog.find(base)
            found.append(clock.lap())
            for image, seconds in warm.items():
                # The guardian has started.
                product.start_ready(fleet, image, start="warm").remove()
                clock.lap()
                guest = product.start_ready(fleet, image, start="warm")
                seconds.append(clock.lap())
                guest.remove()
    yield at_most("three layers that are there, added to a run's start", Summary.of(found).median * 1000, 50, "ms", 1)
    below, above = (Summary.of(seconds).median for seconds in warm.values())
    yield at_most(f"restored over three layers ({above:.2f} s), over none {below:.2f} s", above / below, 1.05, "x")


def _download(folder: Path, rounds: int) -> Promise:
    """A file of a server on this host, against curl."""
    served = folder / "served"
    served.mkdir()
    content = os.urandom(_DOWNLOAD)
    (served / "file").write_bytes(content)
    checksum = Checksum("sha256", hashlib.sha256(content).hexdigest())
    ours, theirs = [], []
    target = folder / "downloaded"
    with _serving(served) as url:
        for _ in range(max(rounds, _DOWNLOADS)):
            clock = Clock()
            download(f"{url}/file", target, checksum, lambda _: None)
            ours.append(clock.lap())
            target.unlink()
            clock.lap()
            subprocess.run(["curl", "-sS", "-o", target, f"{url}/file"], check=True)
            theirs.append(clock.lap())
            target.unlink()
    one, other = Summary.of(ours).median, Summary.of(theirs).median
    return at_most(f"a download ({one:.2f} s), by curl {other:.2f} s", one / other, 1.1, "x")


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    """The address of a server of *folder*, in a process of its own: it serves both clients alike."""
    with multiprocessing.Pool(1) as pool, socket.create_server(("127.0.0.1", 0)) as listener:
        pool.apply_async(_serve, [listener, folder])
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _serve(listener: socket.socket, folder: Path) -> None:
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(listener.getsockname(), handler, bind_and_activate=False) as server:
        server.socket.close()
        server.socket = listener
        server.serve_forever()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # its name in the base class
        """Log nothing."""


def _synchronize(home: Home, folder: Path, rounds: int) -> Promise:
    """A folder of which one file changed since the last time."""
    tree = folder / "tree-of-files"
    tree.mkdir()
    for number in range(_FILES):
        (tree / f"file{number}").write_text(f"text {number}\n")
    seconds = []
    with product.fleet_in(home) as fleet:
        guest = product.start_ready(fleet, "tiny", start="warm")
        guest.sync(tree, "/root/tree")
        for number in range(rounds):
            (tree / "file7").write_text(f"changed {number}\n")
            clock = Clock()
            assert guest.sync(tree, "/root/tree") == 1
            seconds.append(clock.lap())
        guest.remove()
    return at_most(f"sync of {_FILES} files of which one changed", Summary.of(seconds).median, 1, "s")


if __name__ == "__main__":
    sys.exit(main())
