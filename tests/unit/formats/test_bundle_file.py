"""The file of a bundle: what was written is read again, and what is not a whole bundle is refused."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from pytest_xhyve.formats import bundle_file
from pytest_xhyve.formats.bundle_file import BundleReader, BundleWriter, DamagedBundle, read_about

MEMORY = bytes(1 << 20) + b"memory" * 1000


def write(path: Path) -> Path:
    with path.open("w+b") as file:
        writer = BundleWriter(file, {"failure": {"test": "test_it.py::test_fails"}})
        writer.add("web/state", [MEMORY, b"", b"end"])
        writer.add("web/disk0.0", iter([b"disk"]))
        writer.finish()
    return path


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes], about: object = None) -> Path:
    """A tar archive that another program has made."""
    with tarfile.open(path, "w") as tar:
        first = tarfile.TarInfo("about.json")
        content = json.dumps({"format": bundle_file.FORMAT} if about is None else about).encode()
        for member, data in ((first, content), *members, (tarfile.TarInfo("end"), b"")):
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "it.xhyve")
    with BundleReader.open(path) as reader:
        assert reader.about["failure"] == {"test": "test_it.py::test_fails"}
        assert reader.names() == ["web/state", "web/disk0.0"]
        assert b"".join(reader.read("web/disk0.0")) == b"disk"
        assert b"".join(reader.read("web/state")) == MEMORY + b"end"
        assert reader.size_of("web/state") < 1000
    assert read_about(path)["failure"]


def test_another_program_reads_it(tmp_path: Path) -> None:
    with tarfile.open(write(tmp_path / "it.xhyve")) as tar:
        assert tar.getnames() == ["about.json", "web/state.zst", "web/disk0.0.zst", "end"]


def test_bundle_that_is_cut_off_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "it.xhyve")
    whole = path.read_bytes()
    # The last two blocks are tar's own end.
    for size in {0, 100, 512, 600, *range(1024, len(whole) - 1024, 256)}:
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedBundle, match=r"is cut off|is not a bundle"), BundleReader.open(path):
            pass


def test_damage_in_a_member_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "it.xhyve")
    with BundleReader.open(path) as reader:
        at = reader._members["web/disk0.0"].offset_data
    data = bytearray(path.read_bytes())
    data[at + 10] ^= 0xFF
    path.write_bytes(data)
    with BundleReader.open(path) as reader, pytest.raises(DamagedBundle, match=r"is damaged: web/disk0\.0"):
        list(reader.read("web/disk0.0"))


@pytest.mark.parametrize(
    "name", ["../out.zst", "/etc/passwd.zst", "web/../../out.zst", "web/state", "web/sub/state.zst", "x" * 90 + ".zst"]
)
def test_path_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "it.xhyve", (tarfile.TarInfo(name), b"x"))
    with pytest.raises(DamagedBundle, match="unexpected member"), BundleReader.open(path):
        pass


def test_link_is_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("web/state.zst")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with (
        pytest.raises(DamagedBundle, match="unexpected member"),
        BundleReader.open(archive(tmp_path / "it.xhyve", (link, b""))),
    ):
        pass


@pytest.mark.parametrize(
    ("about", "problem"),
    [
        ({"format": 99}, "has version 99 of the format"),
        ({}, "its description is not valid"),
        ([], "its description is not valid"),
        ("text", "its description is not valid"),
    ],
)
def test_description_is_checked(tmp_path: Path, about: object, problem: str) -> None:
    path = archive(tmp_path / "it.xhyve", about=about)
    with pytest.raises(DamagedBundle, match=problem):
        read_about(path)


def test_other_files_are_no_bundles(tmp_path: Path) -> None:
    path = tmp_path / "it.xhyve"
    for content in (b"", b"#!/bin/sh\n" * 200, bytes(4096)):
        path.write_bytes(content)
        with pytest.raises(DamagedBundle, match="is not a bundle"):
            read_about(path)


def test_description_that_is_too_deep(tmp_path: Path) -> None:
    path = tmp_path / "it.xhyve"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("about.json")
        content = b"[" * 1_000_000
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    with pytest.raises(DamagedBundle, match="its description is not valid"):
        read_about(path)


def test_sizes_below_zero(tmp_path: Path) -> None:
    member = tarfile.TarInfo("about.json")
    member.size = -1
    path = tmp_path / "it.xhyve"
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
    with pytest.raises(DamagedBundle, match="is not a bundle"):
        read_about(path)
    archive(path)
    member.name = "web/state.zst"
    content = bytearray(path.read_bytes())
    content[1024:1536] = member.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(content)
    with pytest.raises(DamagedBundle, match=r"unexpected member|is cut off"), BundleReader.open(path):
        pass
