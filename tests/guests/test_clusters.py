"""Clusters: guests on a LAN that find each other by name, under QEMU and vfkit."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import dpkt
import pytest
from pinging import ping
from waiting import becomes

from pytest_xhyve import (
    Guests,
    KernelPanic,
    LanFailed,
    Machine,
    NotSupported,
)
from pytest_xhyve.fleet.cluster import start_cluster
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import end_kept, find_hypervisors_of, live_guests
from pytest_xhyve.model.cluster import ClusterSpec

pytest_plugins = ["pytester"]
pytestmark = [pytest.mark.run_under("qemu", "warm", "vfkit"), pytest.mark.thorough_under("qemu")]
LIMIT = 60


@pytest.fixture(scope="module")
def fleet(_xhyve_fleet: Fleet) -> Fleet:
    """The fleet of the way that the test runs under."""
    return _xhyve_fleet


def test_guests_find_each_other_by_name(pair: Guests) -> None:
    for guest, other in zip(pair, reversed([*pair]), strict=True):
        assert guest.run("uname -n", timeout=LIMIT).stdout.strip() == guest.name
        guest.run(ping(other.name), timeout=LIMIT)
        guest.run(ping(f"{other.name}.lan"), timeout=LIMIT)


def test_broadcast_and_ipv6_reach_the_others(pair: Guests) -> None:
    server, client = pair
    card = client.run(f"grep -l {client.machine.lan_macs[0]} /sys/class/net/*/address").stdout.split("/")[4]
    answers = client.run(f"ping -6 -c 2 -W 20 ff02::1%{card}", timeout=LIMIT).stdout
    mac = bytes.fromhex(server.machine.lan_macs[0].replace(":", ""))
    # The address that belongs to the Ethernet address (RFC 4291, appendix A).
    assert f"fe80::{mac[0] ^ 2:x}{mac[1]:02x}:{mac[2]:x}ff:fe{mac[3]:02x}:{mac[4] << 8 | mac[5]:x}" in answers


def test_commands_run_in_all_guests_at_once(pair: Guests) -> None:
    done = pair.run_all("uname -n")
    assert {name: completed.stdout.strip() for name, completed in done.items()} == {
        "server": "server",
        "client": "client",
    }
    with pytest.raises(Exception, match="exit code 3") as failed:
        pair.run_all("exit 3")
    assert failed.value.__notes__[-1].startswith("it failed in guest client, too: ")


def test_guests_are_named_attributes_and_unknown_ones_suggest_a_name(pair: Guests) -> None:
    assert pair.server is pair["server"] is next(iter(pair))
    assert len(pair) == 2
    assert "client" in pair
    with pytest.raises(KeyError, match="did you mean server"):
        pair["sever"]
    with pytest.raises(AttributeError, match="did you mean client"):
        _ = pair.clients


@pytest.mark.long
def test_addresses_and_names_stay_after_each_restart(fleet: Fleet, xhyve_image: str) -> None:
    with start_cluster(fleet, ClusterSpec.parse(a=xhyve_image, b=xhyve_image), "test") as (a, b):
        b.run(ping("a"), timeout=LIMIT)
        a.reboot()
        b.run(ping("a"), timeout=LIMIT)
        b.kill()
        b.start()
        a.run(ping("b"), timeout=LIMIT)
        hosts = b.run("cat /etc/hosts").stdout
        assert hosts.count(" a a.lan\n") == 1
        assert "\0" not in hosts


@pytest.mark.run_under("warm", "vfkit")
def test_router_between_two_lans(fleet: Fleet) -> None:
    spec = ClusterSpec.parse(
        a="tiny", router="tiny", b="tiny", lans={"front": ["a", "router"], "back": ["router", "b"]}
    )
    with start_cluster(fleet, spec, "test") as guests:
        a, router, b = guests
        router.run("echo 1 >/proc/sys/net/ipv4/ip_forward")
        a.run(f"ip route add {b.address} via {router.addresses['front']}")
        b.run(f"ip route add {a.address} via {router.addresses['back']}")
        # One less than a guest sends.
        assert "ttl=63" in a.run(ping("b"), timeout=LIMIT).stdout


@pytest.mark.run_under("warm", "vfkit")
def test_two_clusters_with_the_same_names_hear_nothing_of_each_other(fleet: Fleet, pair: Guests) -> None:
    spec = ClusterSpec.parse(server=pair.server.image, other=pair.server.image)
    with start_cluster(fleet, spec, "test") as guests:
        before = pair._lans.find("lan").counters()["server"].received
        guests.other.run("ping -c 20 -i 0.02 -W 20 server", timeout=LIMIT)
        own = guests._lans.find("lan").counters()
        assert own["other"].received >= 20
        # What it sends by itself: looking for neighbours and routers.
        assert pair._lans.find("lan").counters()["server"].received - before < 10
        assert guests.server.uuid != pair.server.uuid


@pytest.mark.run_under("warm")
def test_switch_that_dies_is_named_by_the_command_that_needed_it(fleet: Fleet) -> None:
    with start_cluster(fleet, ClusterSpec.parse(a="tiny", b="tiny"), "test") as (a, b):
        b.run(ping("a"), timeout=LIMIT)
        os.kill(a._instance.lans.switches[0].pid, signal.SIGKILL)
        with pytest.raises(LanFailed, match=r"the switch of LAN lan .* has died"):
            b.run("ping -c 60 a", timeout=LIMIT)


@pytest.mark.run_under("warm")
def test_guest_that_cannot_start_takes_the_others_with_it(fleet: Fleet) -> None:
    def break_b(machine: Machine) -> Machine:
        return machine if machine.name == "a" else replace(machine, cmdline=f"{machine.cmdline} init=/nowhere")

    spec = ClusterSpec.parse(a="tiny", b={"image": "tiny", "start": "cold"})
    with pytest.raises(KernelPanic, match="nowhere"):
        start_cluster(fleet, spec, "test", break_b)
    folder = fleet.run_folder
    assert folder is not None
    assert [path.name for path in folder.iterdir() if path.name.startswith(("a-", "b-"))] == []


@pytest.mark.run_under("xhyve")
def test_common_network_of_a_hypervisor(fleet: Fleet, tmp_path: Path) -> None:
    with start_cluster(fleet, ClusterSpec.parse(a="tiny", b="tiny"), "test") as guests:
        a, b = guests
        for guest, other in ((a, b), (b, a)):
            assert guest.run("uname -n").stdout.strip() == guest.name
            guest.run(ping(other.name), timeout=LIMIT)
            guest.run(ping(f"{other.name}.lan"), timeout=LIMIT)
        assert a.addresses == {"lan": a.host}
        a.reboot()
        a.run(ping("b"), timeout=LIMIT)
        b.run(ping("a"), timeout=LIMIT)
        assert a.run("cat /etc/hosts").stdout.count(" b b.lan\n") == 1
        for fault in (
            lambda: guests.partition(["a"], ["b"]),
            lambda: guests.link("a", "b", latency="10ms"),
            lambda: guests.capture(tmp_path / "lan.pcapng").__enter__(),
            lambda: a.network(loss="5%"),
        ):
            with pytest.raises(NotSupported, match=r"no switch of the plugin's .*\n  use --xhyve-hypervisor=qemu"):
                fault()
        with pytest.raises(NotSupported, match="no network cards for LANs"):
            a.link_down()
        guests.heal()


@pytest.mark.run_under("xhyve")
def test_common_network_is_one(fleet: Fleet) -> None:
    lans = {"front": ["a", "b"], "back": ["b"]}
    with pytest.raises(NotSupported, match=r"all guests on one network.*\n  use --xhyve-hypervisor=qemu"):
        start_cluster(fleet, ClusterSpec.parse(a="tiny", b="tiny", lans=lans), "test")


CLUSTERS = """
    import pytest

    @pytest.fixture(scope="module", autouse=True)
    def service(xhyve_module_guests):
        server, client = xhyve_module_guests
        server.run("nc -ll -p 5000 -e cat >/dev/null 2>&1 </dev/null &")
        server.wait_for_port(5000)
        client.run("mkfifo /tmp/in; (nc server 5000 >/tmp/out </tmp/in &) >/dev/null 2>&1; sleep 600 >/tmp/in 2>&1 &")
        client.wait_for("netstat -tn | grep -q 5000.*ESTABLISHED")

    @pytest.mark.parametrize("number", [1, 2])
    def test_open_connection_is_reset_too(xhyve_module_guests, number):
        server, client = xhyve_module_guests
        assert server.run("cat /root/mine", check=False).returncode == 1
        server.run("touch /root/mine")
        client.run("echo hello >/tmp/in", timeout=30)
        client.wait_for("grep -q hello /tmp/out")

    pytestmark = pytest.mark.xhyve_guests(server="tiny", client="tiny", reset=True)
"""


def test_cluster_is_reset_to_one_moment(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(CLUSTERS)
    result = pytester.runpytest("--xhyve-hypervisor=qemu", "--xhyve-start=warm", "--xhyve-strict")
    result.assert_outcomes(passed=2)


FIXTURES = """
    import pytest

    @pytest.mark.xhyve_guests(nodes=2)
    @pytest.mark.xhyve(memory="160M")
    def test_own(xhyve_guests, record_property):
        assert [guest.name for guest in xhyve_guests] == ["node1", "node2"]
        assert {guest.machine.memory for guest in xhyve_guests} == {160 << 20}

    @pytest.mark.parametrize("xhyve_guests", [1, {"a": "tiny", "b": None}], indirect=True)
    def test_parameters(xhyve_guests):
        xhyve_guests.run_all("true")

    @pytest.mark.xhyve_guests(a="tiny")
    class TestShared:
        def test_one(self, xhyve_class_guests, xhyve_guest):
            self.__class__.seen = xhyve_class_guests.a.uuid
            assert xhyve_guest not in xhyve_class_guests

        def test_two(self, xhyve_class_guests):
            assert xhyve_class_guests.a.uuid == self.seen

    def test_by_hand(xhyve_guest_factory):
        with xhyve_guest_factory.cluster(nodes=2) as guests:
            guests.node1.run("ping -c 1 -W 20 node2")
        with pytest.raises(Exception, match="nodes: 0 is not"):
            xhyve_guest_factory.cluster(nodes=0)

    @pytest.mark.xhyve_guests(a="tiny", b="tiny")
    def test_failing(xhyve_guests, tmp_path):
        with xhyve_guests.capture(tmp_path / "lan.pcapng"):
            xhyve_guests.a.run("ping -c 3 -W 20 b")
            xhyve_guests.b.run("echo from b; exit 7")
"""


def test_fixtures_and_markers(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FIXTURES)
    options = ["--xhyve-image=tiny", "--xhyve-hypervisor=qemu", "--xhyve-strict", "--xhyve-artifacts=art"]
    result = pytester.runpytest(*options)
    result.assert_outcomes(passed=6, failed=1)
    result.stdout.fnmatch_lines(["*Captured log xhyve: a *", "*Captured log xhyve: b *"])
    (capture,) = pytester.path.glob("art/*test_failing/a/fetched/lan.pcapng")
    with capture.open("rb") as file:
        assert len(list(dpkt.pcapng.Reader(file))) >= 6


def test_kept_cluster_keeps_its_lan(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.xhyve_guests(a="tiny", b="tiny")
        def test_failing(xhyve_guests):
            xhyve_guests.a.run("false")
        """
    )
    options = ["--xhyve-image=tiny", "--xhyve-hypervisor=qemu", "--xhyve-keep=on-failure", "--xhyve-strict"]
    result = pytester.runpytest(*options)
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*left behind*")
    kept = [guest for guest in live_guests(Home.of_user().folder("runs")) if guest.kept]
    try:
        first, second = sorted(kept, key=lambda guest: guest.name)
        done = subprocess.run([*second.ssh, ping("a")], capture_output=True, text=True, timeout=LIMIT, check=False)
        assert done.returncode == 0, done
        run = first.folder.parent
        assert len(find_hypervisors_of(run)) == 3
    finally:
        for guest in kept:
            assert end_kept(guest)
    assert becomes(lambda: not run.exists())


@pytest.mark.thorough
def test_ansible_reaches_each_guest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os
        import subprocess
        import sys
        from pathlib import Path

        import pytest

        @pytest.mark.xhyve_guests(server="debian12", client="debian12")
        def test_ping(xhyve_guests, tmp_path):
            inventory = xhyve_guests.ansible_inventory(tmp_path / "new" / "hosts.yml")
            done = subprocess.run(
                [Path(sys.executable).with_name("ansible"), "-i", inventory, "all", "-m", "ping"],
                # Without options for ssh, it makes no socket, for which the path of this HOME may be too long.
                env={**os.environ, "ANSIBLE_HOME": str(tmp_path), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_SSH_ARGS": "",
                     "LC_ALL": "C.UTF-8"},
                capture_output=True, text=True, timeout=120, check=False,
            )
            assert done.returncode == 0, done
            assert {line.split(" ", 1)[0] for line in done.stdout.splitlines() if "SUCCESS" in line} == {
                "server", "client"
            }
        """
    )
    result = pytester.runpytest("--xhyve-hypervisor=qemu")
    result.assert_outcomes(passed=1)
