"""Files as people copy them: contents, patterns, home folders, other users."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from warm import LOG, fleet_of

from pytest_xhyve import ConfigurationError, Guest, XhyveError, XhyveWarning
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.put import Source
from pytest_xhyve.guest.ssh_config import host_block
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.spec import GuestSpec


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with fleet_of(Home.of_user(), []) as fleet, fleet.start(ForegroundRequest(GuestSpec())) as guest:
        guest.run("echo bob:x:1234:1235::/home/bob:/bin/sh >>/etc/passwd; echo crew:x:1236: >>/etc/group")
        guest.run("mkdir -p /home/bob && chown 1234:1235 /home/bob")
        yield guest


@pytest.fixture
def folder(guest: Guest) -> Iterator[str]:
    path = guest.run("mktemp -d && chmod 777 $(ls -td /tmp/tmp.* | head -1)").stdout.strip()
    yield path
    guest.run(["rm", "-rf", path])


def stat(guest: Guest, path: str) -> str:
    return guest.run(["stat", "-c", "%a %u %g %s", path]).stdout.strip()


def test_contents(guest: Guest, folder: str) -> None:
    all_contents: tuple[Source, ...] = (b"some text", io.BytesIO(b"some text"), io.StringIO("some text"))
    for number, contents in enumerate(all_contents):
        guest.put(contents, f"{folder}/sub/{number}")
    assert guest.run(["cat", *(f"{folder}/sub/{number}" for number in range(3))]).stdout == 3 * "some text"
    assert stat(guest, f"{folder}/sub/0") == "644 0 0 9"


def test_holes_stay_holes_on_the_way_into_a_guest(guest: Guest, folder: str, tmp_path: Path) -> None:
    """As those of an empty disk; the guest's own disk has less room than the file has holes."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "dense").write_bytes(b"x" * 100)
    path = tree / "it's a disk"
    with path.open("wb") as file:
        for at, data in ((0, b"begin"), (64 << 20, b"middle" * 50_000), ((4 << 30) + 1000, b"end")):
            file.seek(at)
            file.write(data)
    os.utime(path, (1_000_000, 1_000_000))
    begin = time.monotonic()
    guest.put(path, f"{folder}/alone", mode=0o640)
    guest.put(tree, f"{folder}/all")
    assert guest.sync(tree, f"{folder}/synced") == 2
    assert guest.sync(tree, f"{folder}/synced") == 0
    assert time.monotonic() - begin < 60
    for copy in ("alone", "all/it's a disk", "synced/it's a disk"):
        size, blocks, modified = guest.run(["stat", "-c", "%s %b %Y", f"{folder}/{copy}"]).stdout.split()
        assert (int(size), modified) == (path.stat().st_size, "1000000")
        assert int(blocks) * 512 < 8 << 20
        assert guest.run(["head", "-c", "6", f"{folder}/{copy}"]).stdout == "begin\0"
        ends = guest.run(["tail", "-c", "5", f"{folder}/{copy}"]).stdout
        assert ends == "\0\0end"
        middle = ["dd", f"if={folder}/{copy}", "bs=1048576", "skip=64", "count=1"]
        assert guest.run(middle).stdout.rstrip("\0") == "middle" * 50_000
    assert stat(guest, f"{folder}/alone").startswith("640 0 0 ")


@pytest.mark.thorough
def test_holes_stay_holes_on_the_way_into_a_guest_with_gnu_tar(tmp_path: Path) -> None:
    """Its tar reads them; that of the guest above does not."""
    (tmp_path / "tree").mkdir()
    path = tmp_path / "tree" / "it's a disk"
    with path.open("wb") as file:
        for number in range(100):
            file.seek(number * (8 << 20) + 12_345)
            file.write(b"data %d" % number)
    os.link(path, tmp_path / "tree" / "another name")
    path.chmod(0o640)
    os.utime(path, (1_000_000, 1_000_000))
    with fleet_of(Home.of_user(), [], "debian12") as fleet, fleet.start(ForegroundRequest(GuestSpec())) as guest:
        for source in (tmp_path / "tree", shutil.copytree(tmp_path / "tree", tmp_path / "own", copy_function=sparsely)):
            guest.put(source, "/root/copy/")
            for name in ("it's a disk", "another name"):
                copy = f"/root/copy/{source.name}/{name}"
                size, blocks, mode = guest.run(["stat", "-c", "%s %b %a", copy]).stdout.split()
                assert (int(size), mode) == (path.stat().st_size, "640")
                assert int(blocks) * 512 < 16 << 20
                guest.get(copy, tmp_path / "back")
                assert subprocess.run(["cmp", path, tmp_path / "back"], check=False).returncode == 0


def sparsely(source: str, target: str) -> str:
    subprocess.run(["cp", "-p", "--sparse=always", source, target], check=True)
    return target


def test_contents_need_a_name(guest: Guest, folder: str) -> None:
    with pytest.raises(XhyveError, match=f"cannot put contents to {folder}: it is a folder: name a file in it"):
        guest.put(b"", folder)
    with pytest.raises(ConfigurationError, match="17 is not a path, bytes, or a file object"):
        guest.put(17, folder)  # type: ignore[arg-type]


def test_owner_and_mode(guest: Guest, folder: str) -> None:
    guest.put(b"x", f"{folder}/a", owner="bob:crew", mode=0o4711)
    assert stat(guest, f"{folder}/a") == "4711 1234 1236 1"
    guest.put(b"x", f"{folder}/b", owner="bob")
    assert stat(guest, f"{folder}/b") == "644 1234 1235 1"
    guest.put(b"x", f"{folder}/c", owner="77:78")
    assert stat(guest, f"{folder}/c") == "644 77 78 1"
    with pytest.raises(XhyveError, match='only root can set an owner: pass user="root"'):
        guest.put(b"x", f"{folder}/d", owner="root", user="bob")
    for wrong in ("no-such", "bob:no-such"):
        with pytest.raises(XhyveError, match=r"cannot put contents to .*: .*no-such"):
            guest.put(b"x", f"{folder}/d", owner=wrong)
    for invalid in ({"owner": "-a"}, {"owner": "a b"}, {"mode": 0o10000}, {"mode": "644"}, {"exclude": "*.pyc"}):
        with pytest.raises(ConfigurationError, match=f"^{next(iter(invalid))}="):
            guest.put(b"x", f"{folder}/d", **invalid)


def test_other_user(guest: Guest, folder: str, tmp_path: Path) -> None:
    guest.put(b"x", f"{folder}/a", user="bob", mode=0o666)
    assert stat(guest, f"{folder}/a") == "666 1234 1235 1"
    with pytest.raises(XhyveError, match=r"(?i)permission denied"):
        guest.put(b"x", "/etc/b", user="bob")
    guest.run(f"echo secret >{folder}/s; chmod 600 {folder}/s")
    with pytest.raises(XhyveError, match=r"(?i)permission denied"):
        guest.get(f"{folder}/s", tmp_path, user="bob")
    with pytest.raises(XhyveError, match=r"(?i)unknown user.* nobody-here"):
        guest.get(f"{folder}/*", tmp_path, user="nobody-here")
    assert list(tmp_path.iterdir()) == []
    guest.get(f"{folder}/a", tmp_path, user="bob")


def test_home_folders(guest: Guest, tmp_path: Path) -> None:
    guest.put(b"x", "~/dir/my file")
    home = guest.run("cd && pwd").stdout.strip()
    assert stat(guest, f"{home}/dir/my file").endswith(" 1")
    guest.get("~/dir/my file", tmp_path)
    assert (tmp_path / "my file").read_bytes() == b"x"
    guest.put(b"y", "~/mine", user="bob")
    guest.get("~bob/mine", tmp_path)
    assert (tmp_path / "mine").read_bytes() == b"y"


def test_patterns(guest: Guest, folder: str, tmp_path: Path) -> None:
    guest.run(f"cd {folder} && echo 1 >'a 1.log' && echo 2 >b.log && mkdir c.log && echo 3 >c.log/x && echo 4 >'[z]'")
    guest.get(f"{folder}/*.log", tmp_path / "logs")
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["a 1.log", "b.log", "c.log"]
    assert (tmp_path / "logs" / "c.log" / "x").read_text() == "3\n"
    guest.get(f"{folder}/[a-b]*.log", tmp_path / "some")
    assert sorted(path.name for path in (tmp_path / "some").iterdir()) == ["a 1.log", "b.log"]
    guest.get(f"{folder}/[z]", tmp_path / "a file of this name")
    assert (tmp_path / "a file of this name").read_text() == "4\n"
    with pytest.raises(XhyveError, match="no file matches"):
        guest.get(f"{folder}/*.txt", tmp_path)
    with pytest.raises(XhyveError, match="more than 3 B"):
        guest.get(f"{folder}/*.log", tmp_path / "too much", max_size=3)


def test_name_that_matches_a_pattern_is_shown_printable(guest: Guest, folder: str, tmp_path: Path) -> None:
    guest.run(f"mkdir -p {folder}/$(printf 'x\\033[2J') && cd {folder}/x* && mkfifo fifo && echo 1 >file")
    with pytest.warns(XhyveWarning, match=r"x\\x1b\[2J.*fifo .a FIFO") as caught:
        guest.get(f"{folder}/x*", tmp_path)
    assert "\x1b" not in str(caught[0].message)
    assert (tmp_path / "x\x1b[2J" / "file").read_text() == "1\n"


def test_name_cannot_lead_out_of_a_folder(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(XhyveError, match="write the path of the copy"):
        guest.get("/etc/..", tmp_path / "in")


def test_exclude(guest: Guest, folder: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("src/a.py", "src/a.pyc", "build/deep/b", "keep/build.txt"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x")
    guest.put(tree, folder, exclude=["*.pyc", "build"])
    assert guest.run("find . -type f | sort", cwd=f"{folder}/tree").stdout == "./keep/build.txt\n./src/a.py\n"
    guest.get(f"{folder}/tree", tmp_path / "back", exclude=["src/*"])
    assert sorted(path.name for path in (tmp_path / "back").rglob("*") if path.is_file()) == ["build.txt"]


# As pytest does it for its byte code, in each worker of pytest-xdist.
COMES_AND_GOES = """
import sys
from itertools import cycle
from pathlib import Path

files = [Path(sys.argv[1]) / str(number) for number in range(300)]
for file in cycle(files):
    if file.exists():
        file.unlink()
    else:
        file.parent.mkdir(exist_ok=True)
        file.write_text("x")
"""


def test_files_come_and_go_during_the_copy(guest: Guest, folder: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("a", "z"):
        (tree / name).write_text(name)
    with subprocess.Popen([sys.executable, "-S", "-c", COMES_AND_GOES, str(tree / "cache")]) as process:
        try:
            for number in range(2):
                guest.put(tree, f"{folder}/{number}")
                assert guest.run("cat a z", cwd=f"{folder}/{number}").stdout == "az"
                guest.sync(tree, f"{folder}/synced", delete=True)
                assert guest.run("cat a z", cwd=f"{folder}/synced").stdout == "az"
        finally:
            process.kill()


def test_what_is_in_a_folder_goes_into_another_one(guest: Guest, folder: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "new").write_text("new")
    (tree / ".hidden").write_text("hidden")
    tree.chmod(0o700)
    guest.run(f"mkdir -p {folder}/there/sub && echo old >{folder}/there/sub/old && chmod 750 {folder}/there")
    guest.put(f"{tree}/.", f"{folder}/there", exclude=["*.pyc"])
    found = guest.run(f"cd {folder}/there && find . | sort").stdout.split()
    assert found == [".", "./.hidden", "./sub", "./sub/new", "./sub/old"]
    assert stat(guest, f"{folder}/there").startswith("750 ")
    (tmp_path / "empty").mkdir()
    guest.put(f"{tmp_path}/empty/.", f"{folder}/empty")
    assert guest.run(f"ls -A {folder}/empty").stdout == ""
    with pytest.raises(NotADirectoryError):
        guest.put(f"{tree}/.hidden/.", f"{folder}/there")
    with pytest.raises(XhyveError, match=r"cannot put .*tree/\. to .*/there/sub/old: mkdir"):
        guest.put(f"{tree}/.", f"{folder}/there/sub/old")


def test_link_that_is_named_is_followed(guest: Guest, folder: str, tmp_path: Path) -> None:
    (tmp_path / "real").write_text("real")
    (tmp_path / "link").symlink_to("real")
    guest.put(tmp_path / "link", folder)
    assert guest.run(["cat", f"{folder}/link"]).stdout == "real"
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        guest.put(tmp_path / "dangling", folder)


def test_openssh_takes_a_percent_sign(guest: Guest, tmp_path: Path) -> None:
    """As Jenkins has it in the folder of a branch."""
    branch = tmp_path / "feature%2Fname %h"
    branch.mkdir()
    key = branch / "key"
    assert guest.image.key is not None
    key.write_bytes(guest.image.key.read_bytes())
    key.chmod(0o600)
    image = replace(guest.image, key=key)
    config = tmp_path / "config"
    config.write_text(host_block(guest.name, guest._ssh_endpoint(), image, branch))
    argv = ["ssh", "-F", os.fspath(config), guest.name, "echo", "in"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "in\n", "")


def test_sync_sends_what_changed(guest: Guest, folder: str, tmp_path: Path) -> None:
    source, old = tmp_path / "src", time.time() - 1000
    for number in range(2000):
        path = source / str(number % 40) / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n")
        os.utime(path, (old, old))
    (source / "tool").write_text("#!/bin/sh\n")
    (source / "tool").chmod(0o755)
    (source / "link").symlink_to("tool")
    target = f"{folder}/src"
    assert guest.sync(source, target) == 2002
    shown = guest.run(f"find {target} -type f | wc -l; cat {target}/7/7.txt; readlink {target}/link").stdout
    assert shown == "2001\n7\ntool\n"
    # Same size, same second.
    (source / "7" / "7.txt").write_text("8\n")
    os.utime(source / "7" / "7.txt", (old, old))
    begin = time.monotonic()
    # Links are sent each time.
    assert guest.sync(source, target) == 2
    LOG.info("sync of 2,000 files of which one changed: %.2f s", time.monotonic() - begin)
    assert guest.run(["cat", f"{target}/7/7.txt"]).stdout == "8\n"
    # What the guest changed is brought back.
    guest.run(f"echo more >> {target}/8/8.txt; rm {target}/9/9.txt; chmod 600 {target}/tool; touch {target}/own")
    assert guest.sync(source, target) == 4
    assert guest.run(f"cat {target}/8/8.txt {target}/9/9.txt; stat -c %a {target}/tool").stdout == "8\n9\n755\n"
    # A file that is gone here stays there until it may be deleted.
    (source / "10" / "10.txt").unlink()
    guest.sync(source, target)
    assert guest.run(f"ls {target}/10/10.txt {target}/own").returncode == 0
    guest.sync(source, target, delete=True, exclude=["own"])
    assert guest.run(f"ls {target}/10/10.txt {target}/own", check=False).stdout == f"{target}/own\n"


def test_sync_leaves_out(guest: Guest, folder: str, tmp_path: Path) -> None:
    for name in ("a.py", "a.pyc", "build/x", "sub/build/x", "new"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".gitignore").write_text("*.pyc\n/build\n")
    guest.sync(tmp_path, f"{folder}/one", exclude=["*.pyc", "build", ".git*"])
    assert guest.run(f"cd {folder}/one && find . -type f | sort").stdout.split() == ["./a.py", "./new"]
    with pytest.raises(ConfigurationError, match=r"gitignore=True, but git cannot list|needs git"):
        guest.sync(tmp_path, f"{folder}/two", gitignore=True)
    if shutil.which("git") is not None:
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
        assert guest.sync(tmp_path, f"{folder}/two", gitignore=True) == 4
        listed = guest.run(f"cd {folder}/two && find . -type f | sort").stdout.split()
        assert listed == ["./.gitignore", "./a.py", "./new", "./sub/build/x"]
    with pytest.raises(ConfigurationError, match="is not a folder"):
        guest.sync(tmp_path / "a.py", folder)
    with pytest.raises(XhyveError, match=r"cannot sync .* to /proc/x"):
        guest.sync(tmp_path, "/proc/x")


def test_sync_as_another_user(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert guest.sync(tmp_path, "~/src", user="bob") == 1
    assert stat(guest, "/home/bob/src/a").split()[1] == "1234"
