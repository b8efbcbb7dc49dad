"""The files that programs need are found without running them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_xhyve.images.libraries import find_needed_files
from pytest_xhyve.model.errors import ImageError


def test_as_the_dynamic_linker_finds_them() -> None:
    """On this host, whose linker can be asked."""
    program = "/usr/bin/ssh"
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    linked = {word for line in listed.splitlines() for word in line.split() if word.startswith("/")}
    found = find_needed_files(Path("/"), [program])
    assert {str(Path(path).resolve()) for path in linked} <= {str(Path(path).resolve()) for path in found}
    assert program in found


def test_links_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sh").symlink_to("/bin/dash")
    (tmp_path / "bin/dash").symlink_to("../bin/real")
    (tmp_path / "bin/real").write_text("#!")
    assert find_needed_files(tmp_path, ["/bin/sh"]) == ["/bin/dash", "/bin/real", "/bin/sh"]
    (tmp_path / "bin/round").symlink_to("round")
    with pytest.raises(ImageError, match="/bin/round of the packages is a link to itself"):
        find_needed_files(tmp_path, ["/bin/round"])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot read /bin/none of the packages: .*No such file"):
        find_needed_files(tmp_path, ["/bin/none"])
    (tmp_path / "ssh").write_bytes(Path("/usr/bin/ssh").read_bytes())
    with pytest.raises(ImageError, match=r"the packages have no lib\S+, which /ssh needs"):
        find_needed_files(tmp_path, ["/ssh"])


def test_as_a_hook_calls_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("#!")
    module = [sys.executable, "-m", "pytest_xhyve.images.libraries", str(tmp_path)]
    done = subprocess.run([*module, "/a"], check=True, capture_output=True, text=True)
    assert done.stdout == "/a\n"
    done = subprocess.run([*module, "/b"], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot read /b" in done.stderr
