"""Shared guests that each test gets as the fixtures left them: real guests under QEMU, in runs of their own."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from warm import template_of

from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import live_guests
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

pytest_plugins = ["pytester"]
WARM = ("--xhyve-hypervisor=qemu", "--xhyve-start=warm")
COLD = ("--xhyve-hypervisor=qemu", "--xhyve-start=cold")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """This process may have guests of its own; nobody else has."""
    yield
    runs = Home.of_user().folder("runs")
    assert [guest for guest in live_guests(runs) if guest.owner != os.getpid()] == []
    assert [path for path in runs.iterdir() if not path.name.startswith(f"{os.getpid()}-")] == []


DAMAGES = """
    import pytest

    pytestmark = pytest.mark.xhyve(reset=True)

    def damage_files_and_processes(guest):
        guest.run("kill $(cat /root/pid); sleep 999 >/dev/null 2>&1 </dev/null &")
        guest.run("echo new >/etc/made; rm -rf /etc/passwd /root/kept /lib/modules; sync")

    def damage_mounts(guest):
        guest.run("umount /mnt; mkdir -p /tmp/other; mount -t tmpfs none /tmp/other")

    def damage_kernel(guest):
        guest.run("echo 11 >/proc/sys/vm/swappiness; hostname changed; ip link add dummy7 type dummy 2>/dev/null || :")

    def damage_by_power_cut(guest):
        guest.run("echo new >/etc/made; sync")
        guest.kill()

    def damage_by_shutdown(guest):
        guest.shutdown()

    def damage_by_panic(guest):
        with pytest.raises(Exception, match="panic"):
            guest.run("echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger", timeout=30)

    def damage_by_reboot(guest):
        guest.run("echo new >/etc/made")
        guest.reboot()
        assert guest.run("cat /etc/made").stdout == "new\\n"
        assert guest.run("kill -0 $(cat /root/pid)", check=False).returncode != 0

    DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("damage_")]

    @pytest.fixture(scope="module", autouse=True)
    def prepared(xhyve_module_guest):
        guest = xhyve_module_guest
        guest.run("echo kept >/root/kept; mount -t tmpfs none /mnt; echo held >/mnt/held; hostname prepared")
        guest.run("echo 42 >/proc/sys/vm/swappiness")
        guest.run("sleep 888 >/dev/null 2>&1 </dev/null & echo $! >/root/pid")
        return guest

    @pytest.fixture(autouse=True)
    def own(xhyve_module_guest):
        assert xhyve_module_guest.run("ls /root/own", check=False).returncode != 0
        xhyve_module_guest.run("touch /root/own")

    def check(guest):
        assert guest.run("cat /root/kept /mnt/held; hostname").stdout == "kept\\nheld\\nprepared\\n"
        assert guest.run("cat /proc/sys/vm/swappiness").stdout == "42\\n"
        guest.run("kill -0 $(cat /root/pid) && ls /root/own && test ! -e /etc/made && test ! -e /tmp/other")
        assert guest.run("ps | grep -c '[s]leep 999'", check=False).stdout == "0\\n"
        # The console goes on where it was.
        said = f"checked at {len(guest.console.text)}"
        guest.run(f"echo {said} >/dev/console")
        guest.console.wait_for(said)

    @pytest.mark.parametrize("damage", [*DAMAGES, check])
    def test_damage(prepared, xhyve_module_guest, damage):
        assert prepared is xhyve_module_guest
        check(prepared)
        damage(prepared)
"""


def test_what_a_test_does_is_gone_in_the_next(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(DAMAGES)
    with (
        closing(Fleet(Settings(hypervisor="qemu", start="warm"), Home.of_user())) as fleet,
        # It holds the template, which nobody removes meanwhile.
        fleet.start(ForegroundRequest(GuestSpec(image="tiny"))) as guest,
    ):
        template = template_of(guest)
        before = digests(template)
        assert before.keys() >= {"ram", "state"}
        result = pytester.runpytest_subprocess(*WARM, "--xhyve-image=tiny")
        assert digests(template) == before
    result.assert_outcomes(passed=8)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.mark.thorough
def test_guest_that_booted_can_be_reset(pytester: pytest.Pytester) -> None:
    """Its fixtures may restart it, too."""
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.xhyve(reset=True)

        @pytest.fixture(scope="module")
        def prepared(xhyve_module_guest):
            guest = xhyve_module_guest
            guest.run("echo 1 >/root/one; echo 2 >/root/two; sync")
            guest.kill()
            guest.start()
            guest.run("echo 3 >/tmp/three")
            return guest

        @pytest.mark.parametrize("number", range(2))
        def test_it(prepared, number):
            assert prepared.run("cat /root/one /root/two /tmp/three").stdout == "1\\n2\\n3\\n"
            prepared.run("rm /root/one /root/two /tmp/three")
        """
    )
    pytester.runpytest_subprocess(*COLD, "--xhyve-image=tiny").assert_outcomes(passed=2)


@pytest.mark.thorough
def test_shared_fixtures_of_every_scope(pytester: pytest.Pytester) -> None:
    """What a class's fixtures did to the module's guest is gone after the class; what comes late is kept."""
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.xhyve(reset=True)

        def mark(guest, name):
            guest.run(["touch", f"/tmp/mark-{name}"])

        def marks(guest):
            found = guest.run("ls /tmp | grep mark- || :").stdout.replace("mark-", "").split()
            mark(guest, "test")
            return found

        @pytest.fixture(scope="session", autouse=True)
        def not_about_guests(): pass

        @pytest.fixture(scope="module", autouse=True)
        def module(xhyve_module_guest):
            mark(xhyve_module_guest, "module")

        @pytest.fixture(scope="module")
        def late(xhyve_module_guest):
            assert marks(xhyve_module_guest) == ["module"]
            xhyve_module_guest.run("rm /tmp/mark-test")
            mark(xhyve_module_guest, "late")

        @pytest.fixture(scope="class")
        def of_class(request, xhyve_module_guest):
            mark(xhyve_module_guest, request.cls.__name__)
            yield
            mark(xhyve_module_guest, "undone")

        @pytest.mark.usefixtures("of_class")
        class TestOne:
            def test_a(self, xhyve_module_guest):
                assert marks(xhyve_module_guest) == ["TestOne", "module"]

            def test_b(self, xhyve_module_guest):
                assert marks(xhyve_module_guest) == ["TestOne", "module"]

        @pytest.mark.usefixtures("of_class")
        class TestTwo:
            def test_a(self, xhyve_module_guest, xhyve_class_guest):
                assert marks(xhyve_module_guest) == ["TestTwo", "module"]
                assert marks(xhyve_class_guest) == []

            def test_b(self, xhyve_module_guest, xhyve_class_guest):
                assert marks(xhyve_module_guest) == ["TestTwo", "module"]
                assert marks(xhyve_class_guest) == []

        def test_plain(xhyve_module_guest):
            assert marks(xhyve_module_guest) == ["module"]

        def test_late(xhyve_module_guest, late):
            assert marks(xhyve_module_guest) == ["late", "module"]

        def test_after_late(xhyve_module_guest):
            assert marks(xhyve_module_guest) == ["late", "module"]

        @pytest.fixture(scope="module", params=["x", "y"])
        def either(request, xhyve_module_guest):
            mark(xhyve_module_guest, request.param)
            return request.param

        @pytest.mark.parametrize("number", range(2))
        def test_either(xhyve_module_guest, either, number):
            assert marks(xhyve_module_guest) == sorted(["late", "module", either])
        """
    )
    pytester.runpytest_subprocess(*WARM, "--xhyve-image=tiny").assert_outcomes(passed=11)


SESSION = {
    "test_one.py": """
        def test_a(check): check()
        def test_b(check): check()
    """,
    "test_two.py": """
        def test_c(check): check()
        def test_d(check): check()
    """,
}


@pytest.mark.thorough
@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_session(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    pytester.makeconftest(
        """
        import pytest

        def pytest_sessionstart(session):
            session.add_marker(pytest.mark.xhyve(reset=True))

        @pytest.fixture(scope="session")
        def prepared(xhyve_session_guest):
            xhyve_session_guest.run("echo shared >/tmp/shared")
            return xhyve_session_guest

        @pytest.fixture
        def check(prepared):
            def check():
                assert prepared.run("cat /tmp/shared; ls /tmp/new 2>/dev/null || :").stdout == "shared\\n"
                prepared.run("touch /tmp/new; rm /tmp/shared")
            return check
        """
    )
    for name, text in SESSION.items():
        pytester.makepyfile(**{name.removesuffix(".py"): text})
    pytester.runpytest_subprocess(*WARM, "--xhyve-image=tiny", *options).assert_outcomes(passed=4)


@pytest.mark.thorough
def test_service_clock_and_random_numbers(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import time
        import urllib.request

        import pytest

        pytestmark = pytest.mark.xhyve(reset=True, name="served")
        seen = {"random": set(), "uuid": set(), "identity": set()}

        @pytest.fixture(scope="module")
        def served(xhyve_module_guest):
            guest = xhyve_module_guest
            guest.run("mkdir -p /srv/www; echo hello >/srv/www/index.html")
            guest.run("systemd-run --unit=www --working-directory=/srv/www python3 -m http.server 80")
            guest.wait_for_port(80)
            return guest

        @pytest.mark.parametrize("number", range(3))
        def test_it(served, number):
            # The guest is somewhere in the time that the question takes.
            for _ in range(5):
                before = time.time()
                now = float(served.run("date +%s.%N").stdout)
                after = time.time()
                assert before - 0.1 < now < after + 0.1
            host, port = served.forward(80)
            assert urllib.request.urlopen(f"http://{host}:{port}/", timeout=30).read() == b"hello\\n"
            seen["random"].add(served.run("head -c 16 /dev/urandom | od -An -tx1").stdout)
            seen["uuid"].add(served.run("cat /proc/sys/kernel/random/uuid").stdout)
            seen["identity"].add(served.run("cat /etc/machine-id; hostname; cat /sys/class/dmi/id/product_uuid").stdout)
            assert len(seen["random"]) == len(seen["uuid"]) == number + 1
            assert seen["identity"] == {f"{served.uuid.replace('-', '')}\\nserved\\n{served.uuid}\\n"}
            served.run("systemctl stop www; rm -rf /srv/www")
            assert served.run("systemctl is-active www", check=False).returncode != 0
        """
    )
    pytester.runpytest_subprocess(*WARM, "--xhyve-image=debian12").assert_outcomes(passed=3)


def test_guest_that_is_off_cannot_be_saved(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.xhyve(reset=True)

        @pytest.fixture(scope="module", autouse=True)
        def prepared(xhyve_module_guest):
            xhyve_module_guest.kill()

        def test_one(xhyve_module_guest): pass

        def test_two(xhyve_module_guest): pass
        """
    )
    result = pytester.runpytest_subprocess(*WARM, "--xhyve-image=tiny")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "*cannot save the state of guest tiny-*it is off*start it again",
            "*has no saved state*it is off*",
        ]
    )


def test_guest_that_only_getfixturevalue_names_is_reset(pytester: pytest.Pytester) -> None:
    """In the test's body, in a fixture of its own, and beside a test that names the guest."""
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.xhyve(reset=True)

        @pytest.fixture(scope="module")
        def prepared(request):
            guest = request.getfixturevalue("xhyve_module_guest")
            guest.run("echo kept >/root/kept")
            return guest

        @pytest.fixture
        def own(request):
            return request.getfixturevalue("xhyve_module_guest")

        def change(guest):
            assert guest.run("cat /root/kept; ls /root/*").stdout.split() == ["kept", "/root/kept"]
            guest.run("rm /root/kept; touch /root/new")

        def test_body(request):
            request.getfixturevalue("prepared")
            change(request.getfixturevalue("xhyve_module_guest"))

        def test_body_again(request):
            change(request.getfixturevalue("xhyve_module_guest"))

        def test_own_fixture(own):
            change(own)

        def test_names_it(xhyve_module_guest):
            change(xhyve_module_guest)

        def test_does_not_use_it():
            pass

        def test_after_one_that_names_it(request):
            change(request.getfixturevalue("xhyve_module_guest"))
        """
    )
    result = pytester.runpytest_subprocess(*WARM, "--xhyve-image=tiny")
    result.assert_outcomes(passed=6)


@pytest.mark.thorough
def test_guests_of_the_factory_are_reset(pytester: pytest.Pytester) -> None:
    """Made by a shared fixture, by a test, and twice under one name."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def prepared(xhyve_guest_factory):
            guest = xhyve_guest_factory(name="shared", reset=True)
            guest.run("echo kept >/root/kept")
            return guest

        def change(guest):
            assert guest.run("ls /root").stdout == "kept\\n"
            guest.run("rm /root/kept; touch /root/new")

        def test_one(prepared):
            change(prepared)

        def test_two(prepared):
            change(prepared)

        @pytest.mark.parametrize("number", [1, 2])
        def test_own(xhyve_guest_factory, number):
            with xhyve_guest_factory(name="own", reset=True) as guest:
                assert guest.run("ls /root").stdout == ""

        def test_unused(xhyve_guest_factory):
            with xhyve_guest_factory(name="own", reset=True):
                pass
        """
    )
    result = pytester.runpytest_subprocess(*WARM, "--xhyve-image=tiny")
    result.assert_outcomes(passed=5)


def test_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    with (
        closing(Fleet(Settings(hypervisor="qemu", start="warm"), Home.of_user())) as fleet,
        fleet.start(ForegroundRequest(GuestSpec(image="tiny", reset=True))) as guest,
    ):
        reset = fleet.reset_of(guest)
        assert reset is not None
        reset.prepare()
        reset.pause()
        reset.save()
        reset.restore()
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 1 << 20))
        with pytest.raises(XhyveError, match=r"no space left in .*: cannot reset .* 1 MiB are free"):
            reset.restore()
        monkeypatch.undo()
        reset.restore()
        assert guest.run("echo well").stdout == "well\n"
