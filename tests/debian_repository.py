"""A repository of Debian packages, as small as one can be."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from web_server import Site

NAME, VERSION = "xhyve-hello", "1.0"


def build_package(folder: Path) -> bytes:
    """A package with one program, ``xhyve-hello``."""
    tree = folder / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {NAME}\nVersion: {VERSION}\nArchitecture: all\nMaintainer: tests\nDescription: says hello\n"
    )
    program = tree / "usr" / "bin" / NAME
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    package = folder / "package.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(tree), str(package)], check=True)
    return package.read_bytes()


def publish(site: Site, package: bytes) -> None:
    """Publish *package* in a flat repository (apt-secure is told to trust it)."""
    digest = site.add(f"/{NAME}.deb", package)
    entry = {
        "Package": NAME,
        "Version": VERSION,
        "Architecture": "all",
        "Maintainer": "tests",
        "Description": "says hello",
        "Filename": f"./{NAME}.deb",
        "Size": str(len(package)),
        "SHA256": digest,
    }
    packages = "".join(f"{key}: {value}\n" for key, value in entry.items()).encode()
    site.add("/Packages", packages)
    listed = hashlib.sha256(packages).hexdigest()
    site.add("/Release", f"SHA256:\n {listed} {len(packages)} Packages\n".encode())
