"""Bad input of a run: it ends before any test, states what is wrong and what to do, and leaves nothing.

What can only be seen once a guest boots is in tests/guests/test_bad_input.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fake_images import write_image
from homes import KNOWN, share
from mounting import mounted

from pytest_xhyve.host.home import HOME_VARIABLE, Home

PLAIN = "def test_plain(): pass"
WANTING = "def test_plain(): pass\ndef test_guest(xhyve_guest): pass"
BYTES = b"disk" * 1024
# Root without what lets it read and write whatever it likes (capabilities(7)).
AS_ANYBODY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def nothing(folder: Path) -> None:
    return


def lock_key(folder: Path) -> None:
    (folder / "key").unlink()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(folder / "key")], check=True)


def write_twin(folder: Path, **changes: Any) -> None:
    (folder / "b").mkdir()
    write_image(folder / "b", **changes)


def add(folder: Path, text: str) -> None:
    with (folder / "ubuntu18.yaml").open("a") as manifest:
        manifest.write(text)


def marked(**keys: Any) -> str:
    return f"import pytest\n{PLAIN}\n@pytest.mark.xhyve(**{keys!r})\ndef test_guest(xhyve_guest): pass"


@dataclass(frozen=True)
class Bad:
    """One kind of bad input.

    Attributes:
        words: what the message must have, in this order.
        changes: keys of the manifest of ``ubuntu18.img``, which lies in the folder of the run; None leaves one out.
        prepare: changes that folder otherwise.
        options: those of the run.
        tests: the run's.
    """

    words: tuple[str, ...]
    changes: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Path], object] = nothing
    options: tuple[str, ...] = ("--xhyve-image=ubuntu18.img",)
    tests: str = PLAIN


KINDS = {
    "missing image": Bad(
        (
            "--xhyve-image: ",
            "image 'ubuntu1.img' not found",
            "did you mean ubuntu18.img",
            "(in ",
            ": debian12,",
        ),
        options=("--xhyve-image=ubuntu1.img",),
    ),
    "missing folder": Bad(
        ("image 'there/x.img' not found", "folder ", "/there does not exist"), options=("--xhyve-image=there/x.img",)
    ),
    "missing manifest": Bad(("manifest ", "x.yaml not found"), options=("--xhyve-image=x.yaml",)),
    "file that is not a disk": Bad(
        ("ubuntu18.img is not a disk: it is a text file that begins with 'diskdisk", "give a disk in one of"),
        prepare=lambda folder: (folder / "ubuntu18.yaml").unlink(),
    ),
    "unknown name": Bad(("image 'debian21' not found", "did you mean debian12"), options=("--xhyve-image=debian21",)),
    "home of an unknown user": Bad(
        ("'~no-such-user/x.img'", "the home folder of an unknown user"), options=("--xhyve-image=~no-such-user/x.img",)
    ),
    "name that is too long": Bad(
        ("cannot look for the image", "name too long"), options=(f"--xhyve-image={'x' * 300}",)
    ),
    "unknown name in a marker": Bad(
        ("test_it.py::test_guest: ", "image 'debian21' not found", "did you mean debian12"),
        options=(),
        tests=marked(image="debian21"),
    ),
    "unknown name in a parameter": Bad(
        ("test_it.py::test_guest[debian21]: ", "image 'debian21' not found"),
        options=(),
        tests='import pytest\n@pytest.mark.parametrize("xhyve_guest", ["debian21"], indirect=True)\n'
        "def test_guest(xhyve_guest): pass",
    ),
    "wrong image in a marker": Bad(
        ("test_it.py::test_guest: ", "ubuntu18.yaml: cpus: 0 is not"),
        {"cpus": 0},
        options=(),
        tests=marked(image="ubuntu18.img"),
    ),
    "unknown name in the ini file, and a test that wants a guest": Bad(
        ("test_it.py::test_guest: ini value xhyve_image: ", "image 'debian21' not found"),
        options=("-o", "xhyve_image=debian21"),
        tests=WANTING,
    ),
    "wrong key": Bad(("ubuntu18.yaml: unknown key 'kernl'", "did you mean kernel"), {"kernl": "x"}),
    "wrong type": Bad(("ubuntu18.yaml: user: expected text, not 5", "in quotes"), {"user": 5}),
    "missing key": Bad(("ubuntu18.yaml: missing disk",), {"disk": None}),
    "manifest of what is not a disk": Bad(("ubuntu18.img is not a disk: it is a text file",), {"cmdline": None}),
    "disk that is smaller than the image's": Bad(
        ("test_it.py::test_guest: disk_size: 1 MiB is less than the 2 MiB of the image's disk",),
        prepare=lambda folder: os.truncate(folder / "ubuntu18.img", 2 << 20),
        changes={"size": None, "sha256": None},
        options=(),
        tests=marked(image="ubuntu18.img", disk_size="1M"),
    ),
    "disk without a boot loader": Bad(
        ('test_it.py::test_guest: firmware="uefi": ', "ubuntu18.img has no boot loader", "leave firmware out"),
        options=(),
        tests=marked(image="ubuntu18.img", firmware="uefi"),
    ),
    "disk without a boot loader that its manifest wants": Bad(
        ('test_it.py::test_guest: firmware="bios": ', "has no boot loader, and no partition table"),
        {"firmware": "bios", "kernel": None, "initrd": None, "cmdline": None},
        options=(),
        tests=marked(image="ubuntu18.img"),
    ),
    "key that is there twice": Bad(
        ("ubuntu18.yaml: ", "duplicate key 'kernel'", "line "), prepare=lambda folder: add(folder, "kernel: other\n")
    ),
    "no manifest at all": Bad(
        ("ubuntu18.yaml: a manifest is a mapping",), prepare=lambda folder: (folder / "ubuntu18.yaml").write_text("hm")
    ),
    "no YAML": Bad(
        ("ubuntu18.yaml is not YAML in line 1: ", "node content"),
        prepare=lambda folder: (folder / "ubuntu18.yaml").write_text("a: ["),
    ),
    "missing file": Bad(
        ("ubuntu18.yaml: kernel: cannot read ", "/gone: No such file", "repair the file"), {"kernel": "gone"}
    ),
    "folder in the place of a file": Bad(("initrd: cannot read ", "Is a directory"), {"initrd": "."}),
    "empty file": Bad(("initrd: ", "initrd is empty"), prepare=lambda folder: (folder / "initrd").write_bytes(b"")),
    "kernel that is none": Bad(
        ("ubuntu18.yaml: kernel: ", "is not a Linux kernel", "bzImage"),
        prepare=lambda folder: (folder / "vmlinuz").write_bytes(b"\x7fELF" + bytes(5000)),
    ),
    "disk of another format": Bad(
        ("format: ", "is raw, but the manifest states qcow2", "`format: raw`"), {"format": "qcow2"}
    ),
    "truncated disk": Bad(("ubuntu18.yaml: size: ", "has 4096 bytes", "states 5000", "truncated"), {"size": 5000}),
    "wrong digest": Bad(("sha256: 'abc' is not a SHA-256",), {"sha256": "abc"}),
    "0 CPUs": Bad(("--xhyve-cpus: '0' is not a whole number from 1",), options=("--xhyve-cpus=0",)),
    "0 CPUs in the manifest": Bad(("ubuntu18.yaml: cpus: 0 is not a whole number from 1",), {"cpus": 0}),
    "0 CPUs in a marker": Bad(("test_guest: @pytest.mark.xhyve: cpus: 0",), options=(), tests=marked(cpus=0)),
    "memory 12x": Bad(("--xhyve-memory: '12x' is not a size", "512M"), options=("--xhyve-memory=12x",)),
    "memory 12x in the ini file": Bad(("ini value xhyve_memory: '12x'",), options=("-o", "xhyve_memory=12x")),
    "memory 12x in the manifest": Bad(("ubuntu18.yaml: memory: '12x' is not a size",), {"memory": "12x"}),
    "memory without a unit": Bad(
        ("--xhyve-memory: '512' is 512 bytes of memory", "write 512M"), options=("--xhyve-memory=512",)
    ),
    "memory without a unit in the manifest": Bad(("ubuntu18.yaml: memory: 512 is 512 bytes",), {"memory": 512}),
    "memory without a unit in a marker": Bad(
        ("test_guest: @pytest.mark.xhyve: memory: 512 is 512 bytes",), options=(), tests=marked(memory=512)
    ),
    "number of 5,000 digits": Bad(("--xhyve-cpus: '999", "is not a whole"), options=(f"--xhyve-cpus={'9' * 5000}",)),
    "private key that is none": Bad(
        ("ubuntu18.yaml: key: ", "is not a private key", "ssh-keygen"),
        prepare=lambda folder: (folder / "key").write_text("secret"),
    ),
    "public key for a private one": Bad(
        ("key: ", "is a public key", "give the private key"),
        prepare=lambda folder: (folder / "key").write_text("ssh-ed25519 AAAA me"),
    ),
    "private key with a passphrase": Bad(("ubuntu18.yaml: key: ", "has a passphrase"), prepare=lock_key),
    "host key that is none": Bad(("host_keys: 'AAAA' is not a public key", "ssh_host_"), {"host_keys": ["AAAA"]}),
    "host key that is cut off": Bad(
        ("host_keys: ", "damaged or truncated"), {"host_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHQK0VGp"]}
    ),
    "two images of one name": Bad(
        ("two images of this run are named 'ubuntu18'", "/ubuntu18.yaml and ", "/b/ubuntu18.yaml", "`name:`"),
        prepare=write_twin,
        options=("--xhyve-image=ubuntu18.img", "--xhyve-image=b/ubuntu18.img"),
    ),
    "two images of one name and two architectures": Bad(
        ("two images of this run are named 'ubuntu18'", "/ubuntu18.yaml and ", "/b/ubuntu18.yaml", "`name:`"),
        prepare=lambda folder: write_twin(folder, arch="aarch64"),
        options=("--xhyve-image=ubuntu18.img", "--xhyve-image=b/ubuntu18.img"),
    ),
    "an image that calls itself as one of the catalog": Bad(
        ("named 'tiny'", "/images/tiny.yaml and ", "/ubuntu18.yaml"),
        prepare=lambda folder: add(folder, "name: tiny\n"),
        options=("--xhyve-image=tiny", "--xhyve-image=ubuntu18.img"),
    ),
    "two manifests beside one disk": Bad(
        ("ubuntu18.img has two manifests", "ubuntu18.yaml and ubuntu18.yml", "remove one"),
        prepare=lambda folder: (folder / "ubuntu18.yml").write_text("disk: ubuntu18.img"),
    ),
    "no program": Bad(
        ("--xhyve-executable: no executable program '/no/qemu' found", "remove the option"),
        options=("--xhyve-executable=/no/qemu",),
    ),
}


@pytest.fixture
def folder(pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that has a home of its own, in which no image is built."""
    home = share(Home.of_user(), tmp_path / "home", KNOWN)
    monkeypatch.setenv(HOME_VARIABLE, str(home.path))
    return pytester.path


def check_refused(result: pytest.RunResult, words: tuple[str, ...], folder: Path) -> None:
    """See that the run ended before any test, that its error contains *words*, and that it left nothing."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR, result.stdout.str()
    said = result.stderr.str()
    assert said.startswith("ERROR: ")
    assert "Traceback" not in said + result.stdout.str()
    at = 0
    for word in words:
        at = said.find(word, at)
        assert at >= 0, (word, said)
    assert "passed" not in result.stdout.str()
    runs = Home.of_user().path / "runs"
    assert not runs.exists() or not list(runs.iterdir())
    disk = folder / "ubuntu18.img"
    assert not disk.exists() or disk.read_bytes().rstrip(b"\0") == BYTES


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_refused_before_any_test(pytester: pytest.Pytester, folder: Path, kind: Bad) -> None:
    write_image(folder, **kind.changes)
    kind.prepare(folder)
    pytester.makepyfile(test_it=kind.tests)
    check_refused(pytester.runpytest_inprocess(*kind.options), kind.words, folder)


@pytest.mark.parametrize(
    "name", ["ubuntu18.img", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("ubuntu18.yaml", "key"))]
)
def test_file_that_may_not_be_read(pytester: pytest.Pytester, folder: Path, name: str) -> None:
    write_image(folder)
    pytester.makepyfile(test_it=PLAIN)
    (folder / name).chmod(0)
    result = pytester.run(*AS_ANYBODY, sys.executable, "-m", "pytest", "--xhyve-image=ubuntu18.img")
    (folder / name).chmod(0o600)
    check_refused(result, ("cannot read ", name, "Permission denied"), folder)


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        pytest.param({}, {"firmware": "uefi"}, id="marker"),
        pytest.param({"firmware": "uefi"}, {}, marks=pytest.mark.thorough, id="manifest"),
        pytest.param({"firmware": "uefi", "host_keys": None}, {}, marks=pytest.mark.thorough, id="partial manifest"),
    ],
)
def test_host_without_uefi_firmware(
    pytester: pytest.Pytester, folder: Path, changes: dict[str, Any], keys: dict[str, str]
) -> None:
    """Reported before the tests, and not by the first guest; in a mount namespace of its own (unshare(1))."""
    without_ovmf = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /usr/share/OVMF && exec "$0" "$@"']
    if subprocess.run([*without_ovmf, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("only who may mount can hide the firmware of this host")
    write_image(folder, "own", size=None, sha256=None, **changes)
    (folder / "own.img").write_bytes(bytes(510) + b"\x55\xaa" + bytes(1 << 16))
    pytester.makepyfile(test_it=marked(image="own.img", **keys))
    result = pytester.run(*without_ovmf, sys.executable, "-m", "pytest", "--xhyve-hypervisor=qemu")
    words = (
        "test_it.py::test_guest: the UEFI firmware OVMF for x86_64 is not found; looked for:",
        "/usr/share/OVMF/",
        "install it",
    )
    check_refused(result, words, folder)


def test_folder_that_may_not_be_looked_into(pytester: pytest.Pytester, folder: Path) -> None:
    (folder / "locked").mkdir(mode=0)
    pytester.makepyfile(test_it=PLAIN)
    result = pytester.run(*AS_ANYBODY, sys.executable, "-m", "pytest", "--xhyve-image=locked/ubuntu18.img")
    check_refused(result, ("cannot look for the image ", "locked/ubuntu18.img", "Permission denied"), folder)


def test_cache_folder_that_may_not_be_written(
    pytester: pytest.Pytester, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "home").mkdir(mode=0o500)
    monkeypatch.setenv(HOME_VARIABLE, str(folder / "home"))
    pytester.makepyfile(test_it=WANTING)
    result = pytester.run(*AS_ANYBODY, sys.executable, "-m", "pytest")
    check_refused(result, ("cannot use the cache folder ", "Permission denied", f"set {HOME_VARIABLE} to"), folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("ro", ("cannot use the cache folder ", "Read-only file system", HOME_VARIABLE)),
        ("nr_inodes=1", ("no space left", "no inode is free (df -i)", "pytest-xhyve prune")),
    ],
    ids=["read-only", "full"],
)
def test_cache_folder_on_such_a_file_system(
    pytester: pytest.Pytester, folder: Path, monkeypatch: pytest.MonkeyPatch, options: str, words: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_it=WANTING)
    with mounted(folder / "mount", options) as home:
        monkeypatch.setenv(HOME_VARIABLE, str(home))
        check_refused(pytester.runpytest_inprocess(), words, folder)


def test_artifacts_folder_that_cannot_be_written(pytester: pytest.Pytester, folder: Path) -> None:
    """Reported before the tests, not when the first artifact is saved."""
    write_image(folder)
    pytester.makepyfile(test_it=WANTING)
    (folder / "file").touch()
    with mounted(folder / "mount", "ro"):
        for artifacts, why in (("file", "File exists"), ("file/in", "Not a directory"), ("mount", "Read-only")):
            for option in ("--xhyve-artifacts", "--xhyve-save-failures"):
                result = pytester.runpytest_inprocess("--xhyve-image=ubuntu18.img", f"{option}={artifacts}")
                check_refused(result, (f"{option}: cannot write to {folder / artifacts}: {why}",), folder)


def test_home_of_an_unknown_user(pytester: pytest.Pytester, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(folder)
    pytester.makepyfile(test_it=WANTING)
    options = ("--xhyve-image=ubuntu18.img", "--xhyve-artifacts=~no-such-user/art")
    words = "--xhyve-artifacts: '~no-such-user/art' starts with the home folder of an unknown user"
    check_refused(pytester.runpytest_inprocess(*options), (words,), folder)
    monkeypatch.setenv(HOME_VARIABLE, "~no-such-user/cache")
    for option in ("--xhyve-image=ubuntu18.img", "--xhyve-start=cold"):
        result = pytester.runpytest_inprocess(option)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert result.stderr.lines[0].startswith(
            f"ERROR: {HOME_VARIABLE}: '~no-such-user/cache' starts with the home folder of an unknown user"
        )


@pytest.mark.parametrize("option", ["--fixtures", "--fixtures-per-test"])
def test_invalid_image_does_not_hide_the_list_of_fixtures(pytester: pytest.Pytester, folder: Path, option: str) -> None:
    pytester.makepyfile(test_it=WANTING)
    (folder / "file").touch()
    result = pytester.runpytest_inprocess(option, "-o", "xhyve_image=debian21", "--xhyve-artifacts=file")
    assert result.ret == 0


RUNS_ALL_THE_SAME = {
    "ini file with an unknown image": (("-o", "xhyve_image=debian21"), PLAIN),
    "ini file with a wrong image": (("-o", "xhyve_image=wrong.yaml"), PLAIN),
    "ini file with an image that no test takes": (("-o", "xhyve_image=debian21"), WANTING, "-k", "plain"),
    "ini file with a program that is not there": (("-o", "xhyve_executable=/no/qemu"), PLAIN),
    "deselected test": ((), marked(image="debian21"), "-k", "plain"),
    "test that will be skipped": (
        (),
        marked(image="debian21").replace("@", '@pytest.mark.skipif("True", reason="no image")\n@'),
    ),
}


@pytest.mark.parametrize("case", RUNS_ALL_THE_SAME.values(), ids=RUNS_ALL_THE_SAME.keys())
def test_what_no_test_uses_is_not_checked(pytester: pytest.Pytester, folder: Path, case: Any) -> None:
    (folder / "wrong.yaml").write_text("disk: 1")
    options, tests, *more = case
    pytester.makepyfile(test_it=tests)
    result = pytester.runpytest_inprocess(*options, *more)
    assert result.ret == 0
    assert result.parseoutcomes()["passed"] == 1


def test_collect_only_ignores_an_invalid_image(pytester: pytest.Pytester, folder: Path) -> None:
    pytester.makepyfile(test_it=marked(image="debian21"))
    assert pytester.runpytest_inprocess("--collect-only").ret == 0


def test_one_invalid_image_is_reported_once_for_all_its_tests(pytester: pytest.Pytester, folder: Path) -> None:
    pytester.makepyfile(test_it=f"{marked(image='debian21')}\n@pytest.mark.xhyve(image='debian21')\nclass TestIt:\n"
    "    def test_it(self, xhyve_class_guest): pass")  # fmt: skip
    check_refused(pytester.runpytest_inprocess(), ("test_it.py::test_guest and 1 more: ", "'debian21'"), folder)


@pytest.mark.thorough
def test_invalid_image_is_reported_with_xdist(pytester: pytest.Pytester, folder: Path) -> None:
    pytester.makepyfile(test_it=marked(image="debian21"))
    result = pytester.runpytest_subprocess("-n", "1")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*test_guest: image 'debian21' not found; did you mean debian12*"])


@pytest.mark.thorough
def test_missing_hypervisor_is_reported_without_lines_of_the_plugin(
    pytester: pytest.Pytester, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(folder)
    pytester.makepyfile(
        "def test_plain(): pass\ndef test_a(xhyve_session_guest): pass\ndef test_b(xhyve_session_guest): pass"
    )
    monkeypatch.setenv("PATH", str(folder))
    # The summary has a line for each, cut where the terminal ends.
    monkeypatch.setenv("COLUMNS", "200")
    result = pytester.runpytest_subprocess("--xhyve-image=ubuntu18.img")
    result.assert_outcomes(passed=1, errors=2)
    said = result.stdout.str()
    (*_, errors) = said.partition("= ERRORS =")
    reports, _, summary = errors.partition("short test summary")
    for part in (reports, summary):
        assert part.count("HypervisorNotFound: QEMU not found: ") == 2
    assert said.count("install it (Debian and Ubuntu: qemu-system-x86") >= 2
    assert "choice.py" not in said
    assert "raise " not in said
    assert not list(Home.of_user().folder("runs").iterdir())
    # It is for those who look for a mistake of ours.
    assert "choice.py" in pytester.runpytest_subprocess("--xhyve-image=ubuntu18.img", "--full-trace").stdout.str()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system on which no file can be made any more."""
    with mounted(tmp_path / "full", "nr_inodes=1") as folder:
        yield folder
