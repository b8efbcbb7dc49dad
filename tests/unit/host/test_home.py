from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.model.errors import XhyveError


def test_folders_are_the_users_own(new_home: Home) -> None:
    assert new_home.folder("keys").stat().st_mode & 0o777 == 0o700


def test_looser_folder_is_tightened_and_the_one_above_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys").chmod(0o755)
    assert Home(tmp_path).folder("keys").stat().st_mode & 0o777 == 0o700
    assert tmp_path.stat().st_mode & 0o7777 == 0o1777
    tmp_path.chmod(0o777)
    with pytest.raises(XhyveError, match=r"every user may replace what is in it\n.*chmod o-w"):
        Home(tmp_path).folder("keys")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize("kind", ["folder", "link"])
def test_folder_of_another_user_is_not_used(tmp_path: Path, kind: str) -> None:
    """Several users may share the one above. Run by root, a link could lead to /etc."""
    tmp_path.chmod(0o1777)
    target, keys = tmp_path / "target", tmp_path / "keys"
    target.mkdir(mode=0o755)
    if kind == "link":
        keys.symlink_to(target)
    else:
        keys.mkdir(mode=0o755)
    os.chown(keys, 12345, 12345, follow_symlinks=False)
    with pytest.raises(XhyveError, match=r"keys belongs to another user, number 12345\n.*a folder of your own"):
        Home(tmp_path).folder("keys")
    assert target.stat().st_mode & 0o777 == 0o755
    # All of it is that user's: root in a container, or by sudo on a Mac, uses it.
    os.chown(tmp_path, 12345, 12345)
    Home(tmp_path).folder("keys")


def test_link_of_the_user_is_followed(tmp_path: Path) -> None:
    """As to a disk with more room."""
    (tmp_path / "large").mkdir()
    (tmp_path / "images").symlink_to("large")
    Home(tmp_path).folder("images").joinpath("file").touch()
    assert (tmp_path / "large" / "file").exists()


def test_variable_beats_the_platforms_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    assert Home.of_user().path == tmp_path
    monkeypatch.delenv(HOME_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Home.of_user().path.name == "pytest-xhyve"


@pytest.mark.parametrize("given", ["", "~/home"])
def test_no_home_folder(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(HOME_VARIABLE, given)
    # As for a user that a container was given by number.
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(XhyveError, match=rf"no home folder, and HOME is not set\n.*{HOME_VARIABLE}"):
        Home.of_user()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(XhyveError, match=rf"cannot use the cache folder .*: Not a directory\n.*{HOME_VARIABLE}"):
        Home(tmp_path / "file" / "home").folder("keys")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_may_not_be_written() -> None:
    with pytest.raises(XhyveError, match="Permission denied"):
        Home(Path("/proc/1")).folder("keys")
