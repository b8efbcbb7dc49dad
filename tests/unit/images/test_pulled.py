"""Images from the network: names, addresses, checksums, signatures, and what stays as it was pulled."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from command_line import run_separately
from web_server import Site, lay_out, mirrors, serving

from pytest_xhyve.cli.prune import remove
from pytest_xhyve.cli.prune_candidates import find_candidates
from pytest_xhyve.host.download import Limits
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.catalog import read_source
from pytest_xhyve.images.distributions import Address, find_distribution, parse_address, read_distributions
from pytest_xhyve.images.places import Places
from pytest_xhyve.images.pulled import PulledImages, find_pulled
from pytest_xhyve.images.sources import Source, find_source
from pytest_xhyve.model.errors import ConfigurationError, ImageError
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.plugin.header import header_lines

DISK = os.urandom(1 << 18)
NAMES = ("debian-12", "ubuntu-24.04", "fedora-42")


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as site:
        lay_out(site, DISK)
        yield site


def images(home: Home, site: Site, said: list[str] | None = None, *, offline: bool = False) -> PulledImages:
    said = [] if said is None else said
    return PulledImages(home, mirrors(site), said.append, offline=offline, limits=Limits(0.5, 2, 0.01))


def address_of(name: str, own: Path | None = None) -> Address:
    address = find_distribution(name, read_distributions(own), "x86_64")
    assert address is not None
    return address


def test_every_distribution_of_the_list_has_both_architectures() -> None:
    known = read_distributions(None)
    assert {"debian-12", "debian-13", "ubuntu-18.04", "ubuntu-20.04", "ubuntu-22.04", "ubuntu-24.04"} <= known.keys()
    for name in known:
        for machine in ("x86_64", "arm64"):
            address = find_distribution(name, known, machine)
            assert address is not None
            assert address.url.startswith("https://")
            assert (address.sums or "").startswith(address.url.rpartition("/")[0])


@pytest.mark.parametrize("name", NAMES)
def test_distribution_is_pulled_once(new_home: Home, site: Site, name: str) -> None:
    said: list[str] = []
    pulled = images(new_home, site, said).get(address_of(name))
    assert (pulled.disk.read_bytes(), pulled.name) == (DISK, name)
    assert pulled.disk.stat().st_mode & 0o777 == 0o400
    asked = len(site.requests)
    assert images(new_home, site).get(address_of(name)) == pulled
    assert images(new_home, site, offline=True).get(address_of(name)) == pulled
    assert len(site.requests) == asked
    source = find_source(name, places=Places(new_home.path))
    assert (source, source.has_name) == (Source(address=address_of(name)), True)
    manifest = read_source(name, source, Places(new_home.path))
    assert manifest is not None
    assert (manifest.disk, manifest.name, manifest.needs_preparation) == (pulled.disk, name, True)


def test_what_was_pulled_stays_until_update(new_home: Home, site: Site) -> None:
    address = address_of("debian-12")
    first = images(new_home, site).get(address)
    assert images(new_home, site).get(address, update=True) == first
    newer = os.urandom(1 << 18)
    lay_out(site, newer)
    assert images(new_home, site).get(address) == first
    second = images(new_home, site).get(address, update=True)
    assert (second.disk.read_bytes(), first.disk.read_bytes()) == (newer, DISK)
    # The earlier one may go, and the current one with the images.
    assert [(each.kind, each.path) for each in find_candidates(new_home)] == [("pulled disk", first.disk.parent)]
    assert "debian-12" in {each.name for each in remove(find_candidates(new_home, images=True), new_home).removed}
    assert find_pulled(address, new_home.path) is None


def test_parallel_pulls_share_one(new_home: Home, site: Site) -> None:
    site.drip = 1 << 16
    said: list[str] = []
    threads = [
        threading.Thread(target=lambda: images(new_home, site, said).get(address_of("debian-12"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert site.count("debian-12-genericcloud-amd64.qcow2") == 1


def test_no_network(new_home: Home, site: Site) -> None:
    with pytest.raises(ConfigurationError, match=r"debian-12 was not pulled yet, and --xhyve-offline forbids"):
        images(new_home, site, offline=True).get(address_of("debian-12"))
    assert site.requests == []


def test_header(new_home_with_proofs: Home, site: Site) -> None:
    online = Settings(images=("debian-12",))
    offline = online._replace(offline=True)
    assert "debian-12 (not pulled yet; the first guest pulls it)" in str(header_lines(online))
    assert "--xhyve-offline forbids" in str(header_lines(offline))
    pulled = images(new_home_with_proofs, site).get(address_of("debian-12"))
    assert f"debian-12 as pulled on {pulled.on[:10]}" in str(header_lines(offline))


def test_checksum_file_without_the_name(new_home: Home, site: Site) -> None:
    site.add("/images/cloud/bookworm/latest/SHA512SUMS", b"0" * 128 + b"  other.qcow2\n")
    with pytest.raises(ImageError, match=r"SHA512SUMS has no checksum of debian-12-genericcloud-amd64.qcow2"):
        images(new_home, site).get(address_of("debian-12"))


def test_disk_that_is_newer_than_its_checksum(new_home: Home, site: Site) -> None:
    site.add("/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2", b"newer")
    with pytest.raises(ImageError, match="has another checksum"):
        images(new_home, site).get(address_of("debian-12"))
    assert find_pulled(address_of("debian-12"), new_home.path) is None


def test_own_list(new_home: Home, site: Site, tmp_path: Path) -> None:
    own = tmp_path / "images.yaml"
    digest = site.add("/ours/disk.img", DISK)
    site.add("/ours/SUMS", f"{digest}  disk.img\n".encode())
    entry = {"url": f"{site.url}/ours/disk.img", "sums": "SUMS"}
    own.write_text(yaml.safe_dump({"ours": {"x86_64": entry}}))
    assert images(new_home, site).get(address_of("ours", own)).disk.read_bytes() == DISK
    with pytest.raises(ConfigurationError, match="ours is known for x86_64 only, and guests here are aarch64"):
        find_distribution("ours", read_distributions(own), "aarch64")
    for wrong, problem in (
        ({"ours": {"x86_64": {**entry, "sum": "x"}}}, "unknown key 'sum'; did you mean sums"),
        ({"ours": {"x86_64": {"url": "https://a/b"}}}, "missing sums"),
        ({"ours": {"x86_64": {**entry, "url": "ftp://a/b"}}}, "downloads by https, http, file only"),
        ({"ours": "https://a/b"}, "expected a mapping of architectures"),
    ):
        own.write_text(yaml.safe_dump(wrong))
        with pytest.raises(ConfigurationError, match=problem):
            read_distributions(own)


@pytest.mark.parametrize("kind", ["sha256", "sha512"])
def test_address_with_its_checksum(new_home: Home, site: Site, kind: str) -> None:
    digest = hashlib.new(kind, DISK).hexdigest()
    site.add("/x/disk.qcow2.xz", DISK)
    address = parse_address(f"{site.url}/x/disk.qcow2.xz#{kind}={digest.upper()}")
    assert (address.name, address.checksum) == ("disk", (kind, digest))
    assert images(new_home, site).get(address).disk.read_bytes() == DISK


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("https://host/disk.img", r"has no checksum.*\n  append #sha256="),
        ("https://host/disk.img#sha256=12", "has no checksum"),
        ("https://host/disk.img#md5=" + "0" * 32, "has no checksum"),
        ("ftp://host/disk.img#sha256=" + "0" * 64, "downloads by https, http, file only"),
        ("https://host/#sha256=" + "0" * 64, "names no file"),
        ("https://me:secret@host/disk.img#sha256=" + "0" * 64, "host: .*cannot have a password"),
    ],
)
def test_bad_address(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        find_source(text)
    assert "secret" not in str(caught.value)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Two key rings, and a folder in which gpg has the secret keys."""
    if shutil.which("gpg") is None or shutil.which("gpgv") is None:
        pytest.skip("gpg is not installed")
    folder = tmp_path_factory.mktemp("gnupg")
    folder.chmod(0o700)
    rings = {"folder": folder}
    try:
        for name in ("ours", "other"):
            make = ["gpg", "--homedir", str(folder), "--batch", "--passphrase", "", "--quick-gen-key", name, "ed25519"]
            subprocess.run(make, check=True, capture_output=True)
            rings[name] = folder / f"{name}.gpg"
            export = ["gpg", "--homedir", str(folder), "--output", str(rings[name]), "--export", name]
            subprocess.run(export, check=True, capture_output=True)
        yield rings
    finally:
        # gpg has started it, and it would outlive the tests.
        subprocess.run(["gpgconf", "--homedir", str(folder), "--kill", "gpg-agent"], check=True)


@pytest.mark.parametrize("inline", [False, True], ids=["detached", "inline"])
def test_signature(new_home: Home, site: Site, keys: dict[str, Path], tmp_path: Path, inline: bool) -> None:
    sums = tmp_path / "SUMS"
    sums.write_text(f"{site.add('/ours/disk.img', DISK)}  disk.img\n")
    sign = ["gpg", "--homedir", str(keys["folder"]), "--local-user", "ours", "--output", str(tmp_path / "signed")]
    subprocess.run([*sign, "--clear-sign" if inline else "--detach-sign", str(sums)], check=True, capture_output=True)
    signed = (tmp_path / "signed").read_bytes()
    site.add("/ours/SUMS", signed if inline else sums.read_bytes())
    site.add("/ours/SUMS.gpg", signed)

    def address(name: str, keyring: Path) -> Address:
        signature = "inline" if inline else f"{site.url}/ours/SUMS.gpg"
        return Address(name, f"{site.url}/ours/disk.img", None, f"{site.url}/ours/SUMS", signature, keyring)

    assert "is signed by a key of" in images(new_home, site).get(address("good", keys["ours"])).signature
    with pytest.raises(ImageError, match=r"SUMS is not signed by a key of .*other.gpg"):
        images(new_home, site).get(address("other", keys["other"]))
    assert "was not checked" in images(new_home, site).get(address("none", tmp_path / "gone.gpg")).signature
    altered = site.files["/ours/SUMS"].replace(b"disk.img", b"dusk.img")
    site.add("/ours/SUMS", altered)
    with pytest.raises(ImageError, match="is not signed by a key of"):
        images(new_home, site).get(address("altered", keys["ours"]))


def test_command(new_home: Home, site: Site) -> None:
    options = [f"--mirror={begin}={instead}" for begin, instead in mirrors(site)]
    done = run_separately("pull", "debian-12", "fedora-42", *options)
    assert done.exit_code == 0, done.output
    assert [Path(line).read_bytes() for line in done.stdout.splitlines()] == [DISK, DISK]
    assert "is not signed" in done.stderr
    assert run_separately("pull", "--update", "debian-12", *options).exit_code == 0
    wrong = run_separately("pull", "tiny")
    assert (wrong.exit_code, "nothing to pull" in wrong.stderr) == (2, True)
    assert "was not pulled yet" in run_separately("show", "ubuntu-24.04").stderr
    offline = run_separately("pull", "--offline", "ubuntu-24.04", *options)
    assert (offline.exit_code, "--xhyve-offline forbids downloads" in offline.stderr) == (1, True)
