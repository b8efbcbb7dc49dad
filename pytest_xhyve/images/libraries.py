"""Find the files that programs of a root file system need, without running one of them.

``python -m pytest_xhyve.images.libraries ROOT PROGRAM…`` prints the paths, one a line, for a recipe's ``customize``.
The packages may be for another processor than this host's, so the system's own dynamic linker cannot be asked.
"""

from __future__ import annotations

import os
import posixpath
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_xhyve.formats.elf import read_needs
from pytest_xhyve.model.errors import ImageError

# Debian has libraries in the folder of their architecture (ld.so(8), multiarch).
_FOLDERS = ("lib", "usr/lib")
_MULTIARCH = "*-linux-gnu"
_MAX_LINKS = 16


def find_needed_files(root: Path, programs: Sequence[str]) -> list[str]:
    """The paths of *programs*, of all libraries that they need, and of the links on the way to them; sorted.

    Args:
        root: the folder of the root file system; its links are followed as if it were ``/``.
        programs: absolute paths in it.

    Raises:
        ImageError: a program or a library is missing, or damaged.
    """
    standard = [folder for name in _FOLDERS for folder in (root / name, *sorted((root / name).glob(_MULTIARCH)))]
    found: set[str] = set()
    waiting = list(programs)
    while waiting:
        *links, file = _follow(root, waiting.pop())
        found.update(links)
        if file in found:
            continue
        found.add(file)
        try:
            needs = read_needs((root / file.lstrip("/")).read_bytes())
        except (OSError, ValueError) as error:
            raise ImageError(f"cannot read {file} of the packages: {error}") from error
        if needs is None:
            continue
        own = [root / folder.lstrip("/") for folder in needs.folders if folder.startswith("/")]
        waiting += [f"/{_find(name, [*own, *standard], file).relative_to(root)}" for name in needs.libraries]
        waiting += [] if needs.interpreter is None else [needs.interpreter]
    return sorted(found)


def _find(name: str, folders: Sequence[Path], needed_by: str) -> Path:
    for folder in folders:
        if os.path.lexists(folder / name):
            return folder / name
    raise ImageError(f"the packages have no {name}, which {needed_by} needs")


def _follow(root: Path, path: str) -> Iterator[str]:
    """*path*, and each path that the link before it points to; the last one is a file."""
    for _ in range(_MAX_LINKS):
        yield path
        inside = root / path.lstrip("/")
        if not inside.is_symlink():
            return
        path = posixpath.normpath(posixpath.join(posixpath.dirname(path), inside.readlink()))
    raise ImageError(f"{path} of the packages is a link to itself")


def main(argv: Sequence[str]) -> int:
    """Print what the programs in *argv* need; the first word is the root file system."""
    root, *programs = argv
    try:
        sys.stdout.write("".join(f"{path}\n" for path in find_needed_files(Path(root), programs)))
    except ImageError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
