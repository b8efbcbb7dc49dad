"""What tar in a guest reports, and a file without end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_xhyve.guest.archive import Allowance
from pytest_xhyve.guest.get import _has_changed, _write_file, may_match
from pytest_xhyve.model.errors import XhyveError


@pytest.mark.parametrize(
    ("messages", "changed"),
    [
        ("tar: ./log: file changed as we read it", True),
        ("tar: ./log: File removed before we read it", True),
        ("tar: a: No such file or directory\ntar: error exit delayed from previous errors", True),
        ("tar: a: Permission denied\ntar: error exit delayed from previous errors", False),
    ],
)
def test_code_of_tar_for_files_that_changed(messages: str, changed: bool) -> None:
    assert _has_changed(messages) == changed


def test_file_without_end(tmp_path: Path) -> None:
    class Endless:
        def read(self, most: int) -> bytes:
            return bytes(most)

    stream: Any = Endless()
    with pytest.raises(XhyveError, match=r"sends more than .*max_size="):
        _write_file(stream, tmp_path / "file", Allowance(1 << 20))


@pytest.mark.parametrize(
    ("path", "pattern", "matches"),
    [
        ("/l/a.log", "/l/*.log", True),
        ("/l/*.log", "/l/*.log", True),
        ("/l/a[1].log", "/l/*.log", True),
        ("/l/a", "/l/[[:alpha:]]", True),
        ("/l/b", "/l/[^a]", True),
        ("/l/b/", "/l/*/", True),
        ("/m/file", "/*/file", True),
        ("/l/.hidden", "/l/.h*", True),
        ("/l/conftest.py", "/l/*.log", False),
        ("/l/.bashrc", "/l/*", False),
        ("/l/a", "/l/[^a]", False),
        ("/l/ab", "/l/[[:alpha:]]", False),
        ("/l/x.log/conftest.py", "/l/*.log", False),
    ],
)
def test_guest_cannot_name_another_file(path: str, pattern: str, matches: bool) -> None:
    assert may_match(path, pattern) == matches
