"""What tar in a guest reports, and a file without end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_xhyve.guest.archive import Allowance
from pytest_xhyve.guest.get import _has_changed, _write_file
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
