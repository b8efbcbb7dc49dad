from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_xhyve.host import host_files
from pytest_xhyve.model.errors import XhyveError


def test_files_of_pyfakefs_are_not_those_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    host_files.check_host_files()
    # As pyfakefs replaces a module.
    monkeypatch.setattr(host_files, "os", SimpleNamespace())
    with pytest.raises(XhyveError, match=r"pyfakefs\n.*request the guest before `fs`"):
        host_files.check_host_files()
