"""Installers' discs, and the answers to their questions."""

from __future__ import annotations

import io
from pathlib import Path

import pycdlib
import pytest
import yaml

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.preparation.answers import autoinstall, preseed
from pytest_xhyve.preparation.installer_disc import read_installer_disc


def write_disc(path: Path, files: dict[str, bytes]) -> Path:
    """A disc with *files* by their paths."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, rock_ridge="1.09")
    for folder in sorted({name.rpartition("/")[0] for name in files} - {""}):
        iso.add_directory(folder.upper().replace(".", "_"), rr_name=folder.strip("/"))
    for name, content in files.items():
        folder, _, file = name.rpartition("/")
        short = f"{folder.upper().replace('.', '_')}/{file.upper()}{'' if '.' in file else '.'};1"
        iso.add_fp(io.BytesIO(content), len(content), short, rr_name=file)
    iso.write(str(path))
    iso.close()
    return path


@pytest.mark.parametrize(
    ("kernel", "initrd", "kind"),
    [
        ("/install.amd/vmlinuz", "/install.amd/initrd.gz", "preseed"),
        ("/install/vmlinuz", "/install/initrd.gz", "preseed"),
        ("/linux", "/initrd.gz", "preseed"),
        ("/casper/vmlinuz", "/casper/initrd", "autoinstall"),
    ],
)
def test_installer_of_a_disc(tmp_path: Path, kernel: str, initrd: str, kind: str) -> None:
    disc = read_installer_disc(write_disc(tmp_path / "cd.iso", {kernel: b"kernel", initrd: b"initrd"}))
    assert (disc.kind, disc.kernel, disc.initrd) == (kind, b"kernel", b"initrd")


def test_disc_that_is_not_an_installer(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"not an installer that is known: it has none of /install"):
        read_installer_disc(write_disc(tmp_path / "cd.iso", {"/readme.txt": b"hello"}))
    (tmp_path / "text.iso").write_text("hello")
    with pytest.raises(ConfigurationError, match="is not the ISO file of an installer"):
        read_installer_disc(tmp_path / "text.iso")
    with pytest.raises(ConfigurationError, match=r"cannot read .*gone"):
        read_installer_disc(tmp_path / "gone.iso")
    disc = write_disc(tmp_path / "cut.iso", {"/linux": bytes(1 << 20), "/initrd.gz": bytes(1 << 20)})
    disc.write_bytes(disc.read_bytes()[: 1 << 20])
    with pytest.raises(ConfigurationError, match=r"damaged or cut off|is not the ISO file"):
        read_installer_disc(disc)


def test_preseed_answers_each_question_once() -> None:
    lines = preseed("web", ["jq"]).decode().splitlines()
    questions = [line.split()[1] for line in lines]
    assert len(set(questions)) == len(questions)
    assert all(len(line.split()) >= 3 for line in lines)
    assert "d-i netcfg/get_hostname string web" in lines
    assert "d-i pkgsel/include string openssh-server jq" in lines
    assert "d-i debian-installer/exit/poweroff boolean true" in lines


def test_autoinstall_is_valid_yaml() -> None:
    text = autoinstall("web", ["jq"]).decode()
    assert text.startswith("#cloud-config\n")
    content = yaml.safe_load(text)["autoinstall"]
    assert (content["version"], content["identity"]["hostname"], content["packages"]) == (1, "web", ["jq"])
    assert (content["ssh"]["install-server"], content["shutdown"]) == (True, "poweroff")
