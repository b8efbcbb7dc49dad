"""The reader of archives against what tar programs write, and against bytes that are not an archive."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_xhyve.formats.tar import DamagedArchive, Kind, Member, TarReader


def read(archive: bytes) -> list[tuple[Member, bytes]]:
    reader = TarReader(io.BytesIO(archive).read)
    found = []
    for member in reader.members():
        content = bytearray(member.size)
        for offset, chunk in reader.data():
            content[offset : offset + len(chunk)] = chunk
        found.append((member, bytes(content)))
    return found


def archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_format(form: int) -> None:
    long = "/".join(["folder" * 8] * 4)
    first, second = tarfile.TarInfo("a"), tarfile.TarInfo(long)
    second.mtime = 1234567890
    (a, content), (b, other) = read(archive((first, b"x" * 700), (second, b"y"), form=form))
    assert (a.name, a.kind, content) == ("a", Kind.FILE, b"x" * 700)
    assert (b.name, b.modified, other) == (long, 1234567890, b"y")


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_are_not_utf_8(form: int) -> None:
    link = tarfile.TarInfo("caf\udce9" * 60)
    link.type, link.linkname = tarfile.SYMTYPE, "\udcff" * 200
    ((member, _),) = read(archive((link, b""), form=form))
    assert (member.name, member.link) == (link.name, link.linkname)


def test_headers_without_a_member_end() -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 4
    block = header.tobuf(tarfile.GNU_FORMAT) + b"name".ljust(512, b"\0")
    with pytest.raises(DamagedArchive, match="more than 16 headers"):
        list(TarReader(io.BytesIO(block * 100).read).members())


def test_sparse_file_of_gnu_tar(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        for number in range(40):
            file.seek(number << 20)
            file.write(b"%d" % number)
        file.truncate(50 << 20)
    done = subprocess.run(["tar", "-cSf", "-", "-C", tmp_path, "file"], check=True, capture_output=True)
    assert len(done.stdout) < 1 << 20
    ((member, content),) = read(done.stdout)
    assert content == (tmp_path / "file").read_bytes()
    assert len(member.pieces) > 21


@pytest.mark.parametrize("cut", [1, 300, 512, 600, 1024, 1300])
def test_archive_that_ends_early_is_damaged(cut: int) -> None:
    whole = archive((tarfile.TarInfo("a"), b"x" * 100), (tarfile.TarInfo("b"), b"y"))
    with pytest.raises(DamagedArchive):
        read(whole[:cut])


def test_damaged_header_in_the_middle_is_not_the_end() -> None:
    whole = bytearray(archive((tarfile.TarInfo("a"), b""), (tarfile.TarInfo("b"), b"")))
    whole[512 + 20] ^= 1
    with pytest.raises(DamagedArchive, match="header"):
        read(bytes(whole))


def test_huge_header_is_not_read() -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    with pytest.raises(DamagedArchive, match="1099511627776 bytes"):
        read(header.tobuf(tarfile.GNU_FORMAT))


@given(st.binary(max_size=2048))
@example(b"")
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(DamagedArchive):
        read(b"\1" + data)


@given(st.integers(0, 511), st.integers(0, 255), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_any_byte_of_an_extended_header(at: int, value: int, form: int) -> None:
    """Its checksum is right, so that what it states is read."""
    member = tarfile.TarInfo("long" * 60)
    member.mtime = 1.5
    whole = bytearray(archive((member, b"content"), form=form))
    whole[at] = value
    block = whole[:512]
    block[148:156] = b" " * 8
    whole[148:156] = b"%06o\0 " % sum(block)
    try:
        for found, _ in read(bytes(whole)):
            assert 0 <= found.size < 1 << 16
    except DamagedArchive:
        pass
