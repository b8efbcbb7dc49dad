"""Read which shared libraries a program needs (elf(5)); its processor may be another one than this host's."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_LITTLE_ENDIAN_64 = b"\x7fELF\x02\x01"
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 15, 29
# p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")


@dataclass(frozen=True, slots=True)
class Needs:
    """What a program or a library needs so that it can run.

    Attributes:
        interpreter: the path of the dynamic linker; None for a library and for a static program.
        libraries: the names of shared libraries.
        folders: where to look for them first.
    """

    interpreter: str | None = None
    libraries: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


def read_needs(content: bytes) -> Needs | None:
    """What the program or the library *content* needs; None if it is not ELF for a 64-bit little-endian processor.

    Raises:
        ValueError: the file is damaged.
    """
    if not content.startswith(_LITTLE_ENDIAN_64):
        return None
    try:
        return _read(content)
    except (struct.error, OverflowError, StopIteration) as error:
        raise ValueError("the file is truncated") from error


def _read(content: bytes) -> Needs:
    (at,) = struct.unpack_from("<Q", content, 0x20)
    size, count = struct.unpack_from("<HH", content, 0x36)
    segments = [_SEGMENT.unpack_from(content, at + number * size) for number in range(count)]
    interpreter = None
    tags: list[tuple[int, int]] = []
    for kind, _, offset, _, _, length, _, _ in segments:
        if kind == _PT_INTERP:
            interpreter = _text(content, offset)
        elif kind == _PT_DYNAMIC:
            tags = list(_tags(content[offset : offset + length]))
    # The table's address is that in memory.
    table = next((value for tag, value in tags if tag == _DT_STRTAB), None)
    if table is None:
        return Needs(interpreter)
    begin = next(offset + table - to for kind, _, offset, to, _, length, _, _ in segments
                 if kind == _PT_LOAD and to <= table < to + length)  # fmt: skip
    named = [(tag, _text(content, begin + value)) for tag, value in tags if tag in (_DT_NEEDED, _DT_RPATH, _DT_RUNPATH)]
    return Needs(
        interpreter,
        tuple(text for tag, text in named if tag == _DT_NEEDED),
        tuple(folder for tag, text in named if tag != _DT_NEEDED for folder in text.split(":")),
    )


def _tags(section: bytes) -> Iterator[tuple[int, int]]:
    usable = section[: len(section) // _DYNAMIC.size * _DYNAMIC.size]
    for tag, value in _DYNAMIC.iter_unpack(usable):
        if tag == _DT_NULL:
            return
        yield tag, value


def _text(content: bytes, at: int) -> str:
    end = content.find(b"\0", at)
    if not 0 <= at < len(content) or end < 0:
        raise ValueError("a text lies outside of the file")
    return content[at:end].decode("utf-8", "surrogateescape")
