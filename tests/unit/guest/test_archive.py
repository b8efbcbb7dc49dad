"""Archives of a hostile guest: whatever they contain, nothing outside of the destination changes."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_xhyve.formats.tar import DamagedArchive, TarReader
from pytest_xhyve.guest.archive import Allowance, LeftOut, Unpacker
from pytest_xhyve.guest.merge import merge
from pytest_xhyve.model.errors import XhyveError

MOST = 1 << 30


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"") -> tuple[bytes, bytes]:
    header = tarfile.TarInfo(name)
    header.type, header.linkname, header.size, header.mode = kind, link, len(content), 0o6777
    return header.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"), content + bytes(-len(content) % 512)


def archive(*members: tuple[bytes, bytes]) -> bytes:
    return b"".join(header + content for header, content in members) + bytes(1024)


def fetch(data: bytes, target: Path, top: str = "top", most: int = MOST, exclude: Sequence[str] = ()) -> LeftOut:
    """As `Guest.get` does with what the guest sent."""
    with tempfile.TemporaryDirectory(dir=target.parent) as box:
        unpacker = Unpacker(Path(box), [top], "/source", Allowance(most), exclude)
        unpacker.unpack(TarReader(io.BytesIO(data).read))
        if os.path.lexists(Path(box, top)):
            merge(Path(box, top), target)
        return unpacker.left_out


def folder(name: str) -> tuple[bytes, bytes]:
    return member(name, tarfile.DIRTYPE)


def link(name: str, target: str) -> tuple[bytes, bytes]:
    return member(name, tarfile.SYMTYPE, target)


def test_second_archive_is_not_merged_through_a_link_of_the_first(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "conftest.py").write_text("mine")
    fetch(archive(folder("top"), link("top/x", "."), link("top/y", "../../here")), here / "logs")
    fetch(archive(folder("top"), folder("top/x"), member("top/x/conftest.py", content=b"evil")), here / "logs")
    fetch(archive(folder("top"), member("top/y/conftest.py", content=b"evil")), here / "logs")
    assert (here / "conftest.py").read_text() == "mine"
    assert (here / "logs" / "x" / "conftest.py").read_text() == "evil"
    assert not (here / "logs" / "x").is_symlink()


def test_link_of_the_user_is_replaced_where_a_folder_comes(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "x").symlink_to(outside)
    (tmp_path / "logs" / "file").symlink_to(outside / "file")
    fetch(archive(folder("top"), member("top/x/a", content=b"a"), member("top/file", content=b"b")), tmp_path / "logs")
    assert list(outside.iterdir()) == []
    assert (tmp_path / "logs" / "x" / "a").read_bytes() == b"a"
    assert (tmp_path / "logs" / "file").read_bytes() == b"b"


def test_links(tmp_path: Path) -> None:
    left = fetch(
        archive(
            folder("top"),
            member("top/releases/1/file", content=b"1"),
            link("top/current", "/source/top/releases/1"),
            link("top/releases/back", "../current/file"),
            link("top/passwd", "/etc/passwd"),
            link("top/up", ".."),
            link("top/round", "releases/../../secret"),
        ),
        tmp_path / "got",
    )
    assert (tmp_path / "got" / "current").readlink() == Path("releases/1")
    assert (tmp_path / "got" / "releases" / "back").read_bytes() == b"1"
    assert left.count == 3
    assert str(left).startswith("left out top/passwd (a link to /etc/passwd), top/up (a link to ..), top/round")
    assert not os.path.lexists(tmp_path / "got" / "passwd")


def test_special_files_are_left_out(tmp_path: Path) -> None:
    kinds = {"fifo": tarfile.FIFOTYPE, "tty": tarfile.CHRTYPE, "disk": tarfile.BLKTYPE}
    left = fetch(
        archive(*(member(f"top/{name}", kind) for name, kind in kinds.items()), member("top/a")), tmp_path / "g"
    )
    assert str(left) == "left out top/fifo (a FIFO), top/tty (a character device), top/disk (a block device)"
    assert [path.name for path in (tmp_path / "g").iterdir()] == ["a"]


def test_hard_links(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    left = fetch(
        archive(
            member("top/a", content=b"a"),
            member("top/b", tarfile.LNKTYPE, "top/a"),
            link("top/s", "a"),
            member("top/deep/t", tarfile.LNKTYPE, "top/s"),
            member("top/c", tarfile.LNKTYPE, "../secret"),
            member("top/d", tarfile.LNKTYPE, "/etc/passwd"),
            member("top/e", tarfile.LNKTYPE, "top/e"),
            member("top/f", tarfile.LNKTYPE, "top/deep"),
        ),
        tmp_path / "got",
    )
    assert (tmp_path / "got" / "b").samefile(tmp_path / "got" / "a")
    assert (tmp_path / "got" / "deep" / "t").read_bytes() == b"a"
    assert left.count == 4


def test_modes_give_no_rights(tmp_path: Path) -> None:
    fetch(archive(member("top/a")), tmp_path / "got")
    assert (tmp_path / "got" / "a").stat().st_mode & 0o7777 == 0o755


def test_only_so_much_is_written(tmp_path: Path) -> None:
    with pytest.raises(XhyveError, match="more than 3 B; to allow more, pass max_size="):
        fetch(archive(member("top/a", content=b"ab"), member("top/b", content=b"cd")), tmp_path / "got", most=3)


def test_zeros_become_holes(tmp_path: Path) -> None:
    fetch(archive(member("top", content=bytes(8 << 20))), tmp_path / "got")
    status = (tmp_path / "got").stat()
    assert (status.st_size, status.st_blocks) == (8 << 20, 0)


def test_file_and_folder_do_not_replace_each_other(tmp_path: Path) -> None:
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="a file where a folder comes"):
        fetch(archive(folder("top"), folder("top/file")), tmp_path / "got")
    (tmp_path / "got" / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        fetch(archive(folder("top"), member("top/folder")), tmp_path / "got")


names = st.one_of(
    st.lists(st.sampled_from(["top", "x", "y", "..", ".", "", "victim"]), min_size=1, max_size=5).map("/".join),
    st.sampled_from(["top", "top/x", "top/x/y", "/top/x", "../victim", "/", "victim", "top/" + "d/" * 200, "n" * 300]),
)
kinds = st.sampled_from([b"0", b"\0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"V", b"Z"])
members = st.builds(member, names, kinds, names, st.sampled_from([b"", b"evil"]))
archives = st.lists(members, max_size=12).map(lambda each: archive(*each))


def contents(path: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for each in sorted(path.rglob("*")):
        status = each.lstat()
        data = each.readlink() if each.is_symlink() else each.read_bytes() if each.is_file() else None
        found[str(each)] = (status.st_mode, data)
    return found


def test_link_that_another_member_lies_in(tmp_path: Path) -> None:
    left = fetch(archive(folder("top"), link("top/l", "x"), link("top/l/y", "z")), tmp_path / "got")
    assert (tmp_path / "got" / "l" / "y").readlink() == Path("z")
    assert not left


@pytest.mark.parametrize("name", ["/x", "//x", "/", "x", ".."])
def test_folder_without_a_name_was_asked_for(tmp_path: Path, name: str) -> None:
    """The guest states the name of the folder that it sends."""
    box = tmp_path / "box"
    box.mkdir()
    for top in ("", "..", "/"):
        unpacker = Unpacker(box, [top], "/", Allowance(MOST))
        unpacker.unpack(TarReader(io.BytesIO(archive(member(name, content=b"evil"))).read))
        assert unpacker.left_out.count == 1
    assert list(tmp_path.rglob("*")) == [box]


def test_paths_are_bounded(tmp_path: Path) -> None:
    deep = "/".join(["n" * 200] * 30)
    left = fetch(archive(folder("top"), link("top/l", deep), link(f"top/{deep}", "x")), tmp_path / "got")
    assert left.count == 2


def test_reasons_are_printable(tmp_path: Path) -> None:
    left = fetch(archive(folder("top"), member("top/\x1b]0;\udce9\a", b"6")), tmp_path / "got")
    assert str(left) == r"left out top/\x1b]0;\udce9\x07 (a FIFO)"


def test_warning_is_short_whatever_the_guest_names(tmp_path: Path) -> None:
    """A path may have 4,096 bytes, and tar may report any number of files."""
    deep = "/".join(["n" * 200] * 19)
    left = fetch(archive(folder("top"), *(link(f"top/{number}{deep}", "/x") for number in range(99))), tmp_path / "got")
    left.messages = "\n".join(f"tar: {number}{deep}: file changed as we read it" for number in range(99))
    assert left.count == 99
    assert len(str(left)) < 8000
    assert "and 89 more; files changed during the copy: tar: 0nnn" in str(left)
    assert str(left).endswith("file changed as we read it and 89 more")


@given(archives, archives, archives)
@example(
    archive(folder("top"), link("top/x", "y/../.."), link("top/y", "z")),
    archive(folder("top"), link("top/z", "deep")),
    archive(folder("top"), member("top/x/victim", content=b"evil")),
)
def test_no_archive_changes_anything_outside(first: bytes, second: bytes, third: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        (here / "victim").write_text("mine")
        (here / "x").mkdir()
        (here / "x" / "victim").write_text("mine")
        before = contents(here)
        for data in (first, second, third):
            with contextlib.suppress(DamagedArchive, OSError):
                fetch(data, here / "got")
            after = {path: each for path, each in contents(here).items() if not path.startswith(f"{here}/got")}
            assert after == before
            # No link in it leads outside, so that no program that reads the copy leaves it.
            for each in (here / "got").rglob("*"):
                try:
                    assert each.resolve().is_relative_to((here / "got").resolve())
                except (RuntimeError, OSError):
                    # The links are a ring.
                    assert each.is_symlink()


def test_excluded_names_are_not_unpacked(tmp_path: Path) -> None:
    names = ("top/a.py", "top/a.pyc", "top/build/deep/b", "top/keep/build.txt", "top/src/x")
    left_out = fetch(
        archive(*(member(name) for name in names)), tmp_path / "here", exclude=["*.pyc", "build", "src/*", "top"]
    )
    assert not left_out
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["here/a.py", "here/keep/build.txt"]


def test_allowance_is_for_all_files_together() -> None:
    allowance = Allowance(10)
    allowance.take(6)
    with pytest.raises(XhyveError, match="more than 10 B"):
        allowance.take(5)
