"""The lock for vmnet's set-up, in a folder that all users share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_xhyve.hypervisors.xhyve.vmnet import VmnetLock
from pytest_xhyve.model.errors import XhyveError


def test_folder_is_for_all_users(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    before = os.umask(0o077)
    try:
        lock = VmnetLock(folder)
        lock.acquire(1)
        lock.release()
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o7777 == 0o777


def test_link_that_another_user_put_there_is_not_followed(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    link = tmp_path / "shared"
    link.symlink_to(private)
    with pytest.raises(XhyveError, match="cannot lock"):
        VmnetLock(link).acquire(1)
    assert private.stat().st_mode & 0o7777 == 0o700
    assert list(private.iterdir()) == []
