"""Folders of the host in a guest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nfs_client import NfsClient
from warm import fleet_of

from pytest_xhyve import ConfigurationError, Guest, GuestFactory, NotSupported, XhyveError
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.spec import GuestSpec


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a link that leads out of it."""
    outside = tmp_path_factory.mktemp("host")
    (outside / "secret").write_text("not for guests")
    project = outside / "it's a project"
    (project / "sub").mkdir(parents=True)
    (project / "sub" / "script").write_text("#!/bin/sh\necho from the host\n")
    (project / "sub" / "script").chmod(0o755)
    (project / "private").write_text("for root only")
    (project / "private").chmod(0o600)
    (project / "secret").symlink_to(outside / "secret")
    for number in range(300):
        (project / f"file {number}").write_text(str(number))
    return project


@pytest.fixture(scope="module")
def guest(project: Path) -> Iterator[Guest]:
    spec = GuestSpec.parse(shares={"/src": project, "/opt/a b": project / "sub"})
    with fleet_of(Home.of_user(), []) as fleet, fleet.start(ForegroundRequest(spec)) as guest:
        yield guest


def test_guest_reads_what_the_host_has(guest: Guest, project: Path) -> None:
    assert guest.run("/src/sub/script").stdout == "from the host\n"
    assert guest.run(["/opt/a b/script"]).stdout == "from the host\n"
    assert sorted(guest.run("ls /src").stdout.splitlines()) == sorted(path.name for path in project.iterdir())
    assert guest.run("cat /src/private").stdout == "for root only"
    assert guest.run("stat -c '%U %a' /src/private").stdout.split() == ["root", "600"]
    (project / "later").write_text("written while the guest runs")
    guest.wait_for("grep -q runs /src/later", timeout=30)


def test_guest_writes_in_its_own_memory(guest: Guest, project: Path) -> None:
    guest.run("echo mine >/src/new; echo mine >>'/src/file 7'; rm '/src/file 8'; mkdir /src/sub/build")
    assert guest.run("cat /src/new '/src/file 7'").stdout == "mine\n7mine\n"
    assert guest.run("ls '/src/file 8'", check=False).returncode != 0
    assert (project / "file 7").read_text() == "7"
    assert (project / "file 8").exists()
    assert not (project / "new").exists()
    assert list((project / "sub").iterdir()) == [project / "sub" / "script"]


def test_hostile_guest_writes_nothing(guest: Guest, project: Path) -> None:
    """Root of the guest may mount the folder for writing; the server refuses."""
    mount = guest.run("grep ' /run/xhyve-shares/0/host nfs ' /proc/mounts").stdout.split()
    options = ",".join(option for option in mount[3].split(",") if option != "ro")
    guest.run(f"mkdir -p /mnt/rw && mount -t nfs -o rw,{options} {mount[0]} /mnt/rw", timeout=60)
    for command in ("echo x >/mnt/rw/new", "rm /mnt/rw/private", "chmod 777 /mnt/rw/private", "mkdir /mnt/rw/d"):
        done = guest.run(command, check=False, timeout=60)
        assert done.returncode != 0
        assert "Read-only file system" in done.stderr
    guest.run("umount /mnt/rw")
    assert (project / "private").stat().st_mode & 0o777 == 0o600


def test_link_out_of_the_folder_is_not_followed(guest: Guest, project: Path) -> None:
    assert guest.run("cat /src/secret", check=False).returncode != 0
    guest.run(f"mkdir -p {project.parent} && echo the guest\\'s own >{project.parent}/secret")
    assert guest.run("cat /src/secret").stdout == "the guest's own\n"


@pytest.mark.thorough
def test_shares_live_through_snapshots_and_boots(guest: Guest, project: Path) -> None:
    guest.run("echo before >/src/state")
    snapshot = guest.snapshot()
    guest.run("echo after >/src/state")
    guest.restore(snapshot)
    snapshot.remove()
    assert guest.run("cat /src/state '/src/file 9'").stdout == "before\n9"
    guest.reboot()
    # The guest's memory is lost, and with it what was written there.
    assert guest.run("cat '/src/file 7' /src/sub/script").stdout.startswith("7#!/bin/sh")
    guest.shutdown()
    guest.start()
    assert guest.run("cat '/src/file 7'").stdout == "7"


def test_no_other_program_reads_a_share(guest: Guest) -> None:
    port = int(guest.run("grep -o 'mountport=[0-9]*' /proc/mounts | head -1").stdout.split("=")[1])
    with NfsClient(port) as client:
        assert client.mount("/") is None
        assert client.mount(f"/{'00' * 16}/0/0") is None


@pytest.mark.run_under("warm")
@pytest.mark.thorough
def test_share_over_ssh(xhyve_guest_factory: GuestFactory, project: Path) -> None:
    """An isolated guest reaches only what the test exposes."""
    with xhyve_guest_factory(image="tiny", shares={"/src": str(project)}, network="isolated") as guest:
        assert guest.run("cat '/src/file 3'; echo x >/src/new", timeout=60).stdout == "3"
        snapshot = guest.snapshot()
        guest.restore(snapshot)
        assert guest.run("cat /src/new '/src/file 4'", timeout=60).stdout == "x\n4"
        guest.reboot()
        assert guest.run("cat '/src/file 5'", timeout=60).stdout == "5"


@pytest.mark.run_under("warm")
@pytest.mark.thorough
def test_guest_with_a_share_can_be_reset(xhyve_guest_factory: GuestFactory, project: Path) -> None:
    with xhyve_guest_factory(image="tiny", shares={"/src": str(project)}, reset=True) as guest:
        assert guest.run("cat '/src/file 3'").stdout == "3"


@pytest.mark.run_under("warm")
def test_refusals(xhyve_guest_factory: GuestFactory, project: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot share .*missing: No such file"):
        xhyve_guest_factory(image="tiny", shares={"/src": tmp_path / "missing"})
    with pytest.raises(NotSupported, match='network="none" cannot mount'):
        xhyve_guest_factory(image="tiny", shares={"/src": project}, network="none")
    with pytest.raises(XhyveError, match=r"(?s)cannot mount .* in guest .*nfs, nfsv3 and overlay"):
        xhyve_guest_factory(image="tiny", shares={"/proc/src": project})


@pytest.mark.thorough
def test_systemd_reboots_and_shuts_down_with_a_share(project: Path) -> None:
    with fleet_of(Home.of_user(), [], "debian12") as fleet:
        spec = GuestSpec.parse(shares={"/src": project})
        with fleet.start(ForegroundRequest(spec)) as guest:
            assert guest.run("/src/sub/script").stdout == "from the host\n"
            guest.run("echo x >/src/new")
            guest.reboot()
            assert guest.run("cat '/src/file 7'").stdout == "7"
            guest.shutdown()
