from __future__ import annotations

import io
import stat
import tarfile

import pytest

from pytest_xhyve.images.initrd import Entry, build_initrd, cpio_archive
from pytest_xhyve.model.errors import ImageError

MODULES = "lib/modules/6.1"
DEP = """kernel/virtio/virtio.ko:
kernel/virtio/virtio_ring.ko: kernel/virtio/virtio.ko
kernel/block/virtio_blk.ko: kernel/virtio/virtio_ring.ko kernel/virtio/virtio.ko
kernel/crypto/crc32c-intel.ko:
"""


def root(**files: bytes) -> tarfile.TarFile:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    stream.seek(0)
    return tarfile.open(fileobj=stream)


def a_root(**changes: bytes) -> tarfile.TarFile:
    files = {
        "usr/bin/busybox": b"busybox",
        f"{MODULES}/modules.dep": DEP.encode(),
        f"{MODULES}/kernel/virtio/virtio.ko": b"1",
        f"{MODULES}/kernel/virtio/virtio_ring.ko": b"2",
        f"{MODULES}/kernel/block/virtio_blk.ko": b"3",
        f"{MODULES}/kernel/crypto/crc32c-intel.ko": b"4",
    }
    return root(**(files | changes))


def entries_of(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Read a newc archive as the kernel does."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_at = at + 110
        name = archive[name_at : name_at + fields[11] - 1].decode()
        content_at = (name_at + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (fields[1], archive[content_at : content_at + fields[6]])
        at = (content_at + fields[6] + 3) & ~3


def test_archive_reads_back() -> None:
    entries = [Entry("a", stat.S_IFREG | 0o644, b"12345"), Entry("folder", stat.S_IFDIR | 0o755)]
    assert entries_of(cpio_archive(entries)) == {
        "a": (stat.S_IFREG | 0o644, b"12345"),
        "folder": (stat.S_IFDIR | 0o755, b""),
    }


def test_modules_come_after_what_they_need() -> None:
    found = entries_of(build_initrd(a_root(), ["virtio_blk", "crc32c_intel"], b"#!init"))
    listed = found["modules"][1].decode().splitlines()
    assert listed == ["/lib/virtio.ko", "/lib/virtio_ring.ko", "/lib/virtio_blk.ko", "/lib/crc32c-intel.ko"]
    assert all(path.removeprefix("/") in found for path in listed)


def test_folders_come_before_what_is_in_them() -> None:
    names = list(entries_of(build_initrd(a_root(), ["virtio_blk"], b"#!init")))
    assert names.index("bin") < names.index("bin/busybox")
    assert {"dev", "proc", "sys", "root"} <= set(names)


@pytest.mark.parametrize(
    ("archive", "message"),
    [(root(), "has no usr/bin/busybox"), (root(**{"bin/busybox": b""}), "has no kernel modules")],
)
def test_what_is_missing_is_named(archive: tarfile.TarFile, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        build_initrd(archive, ["virtio_blk"], b"")


def test_unknown_module_is_named() -> None:
    with pytest.raises(ImageError, match="no module 'floppy'"):
        build_initrd(a_root(), ["floppy"], b"")
