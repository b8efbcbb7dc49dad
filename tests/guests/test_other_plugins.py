"""The plugin beside other plugins of pytest: each of them from PyPI, with guests, in a run of its own."""

from __future__ import annotations

import html
import json
import re

import other_plugins
import pytest
from chosen import Chosen
from waiting import becomes

from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import live_guests

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.run_under("warm")


def run(pytester: pytest.Pytester, hypervisor: Chosen, *options: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess(*hypervisor.options, "--xhyve-image=tiny", "-rA", *options)


def numbers(result: pytest.RunResult, label: str) -> list[str]:
    """What the tests printed after *label*, in order."""
    return re.findall(rf"^{label}=(\S+)$", result.stdout.str(), re.MULTILINE)


def test_timeout_ends_the_test_with_its_command(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    """pytest-timeout, by a signal: only this test fails."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def ready(xhyve_guest):
            return xhyve_guest

        @pytest.mark.timeout(1, func_only=True)
        def test_hangs(ready):
            ready.run("echo so far; sleep 1001")

        def test_next(xhyve_guest):
            xhyve_guest.run("! pgrep -f 1001")
        """
    )
    result = run(pytester, hypervisor, "--timeout-method=signal")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            '>       ready.run("echo so far; sleep 1001")',
            "E *Timeout*pytest-timeout*",
            "E *while a command ran in guest tiny-0*",
            "*$ echo so far; sleep 1001",
            "*so far",
        ]
    )
    assert not live_guests(Home.of_user().folder("runs"))


def test_timeout_that_ends_the_process_leaves_no_guest(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    """pytest-timeout, by a thread: it shows where each thread is, and ends pytest without any clean-up."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.timeout(1, method="thread", func_only=True)
        def test_hangs(xhyve_guest):
            xhyve_guest.run("sleep 1002")
        """
    )
    result = run(pytester, hypervisor)
    assert result.ret == 1
    assert 'xhyve_guest.run("sleep 1002")' in result.stderr.str() + result.stdout.str()
    assert becomes(lambda: not live_guests(Home.of_user().folder("runs")))


@pytest.mark.long
def test_rerun_gets_new_guests(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    """pytest-rerunfailures: a guest that a failed test has damaged is not used again, also if it is shared."""
    pytester.makepyfile(
        """
        import pytest

        tries = []

        def damage(*guests):
            for guest in guests:
                assert guest.run("cat /root/damaged", check=False).stdout == ""
                guest.run("echo yes > /root/damaged")
            tries.append(guests)
            assert len(tries) % 2 == 0

        @pytest.fixture(scope="class")
        def server(xhyve_class_guest):
            xhyve_class_guest.run("touch /root/served")
            yield xhyve_class_guest
            xhyve_class_guest.run("rm /root/served")

        def test_own(xhyve_guest):
            damage(xhyve_guest)

        class TestShared:
            def test_before(self, server):
                server.run("touch /root/before")

            def test_class(self, server, xhyve_module_guest):
                damage(server, xhyve_module_guest)
                # What uses the guest was set up again, too.
                server.run("test -e /root/served && test ! -e /root/before")

            def test_after(self, server):
                assert server is tries[-1][0]
                assert server.run("cat /root/damaged; ls /root/served").stdout == "yes\\n/root/served\\n"

        @pytest.mark.xhyve(reset=True)
        class TestReset:
            def test_class(self, server):
                damage(server)

            def test_is_not_new(self, server):
                server.run("test ! -e /root/damaged")
                assert tries[-1] == tries[-2] == (server,)

        def test_factory(xhyve_guest_factory):
            damage(xhyve_guest_factory(name="again"))

        def test_by_name(request):
            damage(request.getfixturevalue("xhyve_session_guest"))
        """
    )
    result = run(pytester, hypervisor, "-p", "rerunfailures", "--reruns=1", "--xhyve-max-guests=4")
    assert result.parseoutcomes() == {"passed": 8, "rerun": 5}
    assert not live_guests(Home.of_user().folder("runs"))


@pytest.mark.thorough
def test_failures_of_all_runs_are_in_pytest_html(
    pytester: pytest.Pytester, hypervisor: Chosen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pytest-html, with pytest-rerunfailures and pytest-xdist."""
    monkeypatch.setenv("PYTEST_ADDOPTS", other_plugins.WITHOUT)
    pytester.makepyfile(
        """
        def test_fails(xhyve_guest):
            xhyve_guest.run("echo said-by-the-test > /dev/console; exit 3")
        """
    )
    options = ("-p", "rerunfailures", "--reruns=1", "-n1", "--html=report.html", "--self-contained-html")
    assert run(pytester, hypervisor, *options).parseoutcomes() == {"failed": 1, "rerun": 1}
    blob = re.search(r'data-jsonblob="([^"]*)"', (pytester.path / "report.html").read_text())
    assert blob is not None
    (rows,) = json.loads(html.unescape(blob[1]))["tests"].values()
    (log,) = (row["log"] for row in rows if row["result"] == "Failed")
    assert log.count("Captured log xhyve: tiny-0 call") == 2
    assert log.count("\n  said-by-the-test") == 2


@pytest.mark.thorough
def test_random_order_keeps_shared_guests_together(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    """pytest-randomly: in each order, the tests of a class share one guest, and no name or address is random."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(3))
        class TestShared:
            @pytest.mark.parametrize("again", range(2))
            def test_same(self, xhyve_class_guest, number, again):
                print(f"\\nshared={id(xhyve_class_guest)}")

        @pytest.mark.parametrize("number", range(2))
        def test_own(xhyve_guest, number):
            print(f"\\nown={xhyve_guest.mac}")
        """
    )
    for seed in ("1", "2"):
        result = run(pytester, hypervisor, "-p", "randomly", f"--randomly-seed={seed}")
        result.assert_outcomes(passed=8)
        assert f"Using --randomly-seed={seed}" in result.stdout.str()
        assert len(set(numbers(result, "shared"))) == 1
    assert not live_guests(Home.of_user().folder("runs"))


@pytest.mark.thorough
def test_each_repetition_gets_a_new_guest(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    """pytest-repeat."""
    pytester.makepyfile(
        """
        def test_own(xhyve_guest):
            xhyve_guest.run("test ! -e /root/mark; touch /root/mark")
            xhyve_guest.run("echo 1 >> /root/count")
            assert xhyve_guest.run("cat /root/count").stdout == "1\\n"

        def test_shared(xhyve_module_guest):
            count = xhyve_module_guest.run("echo 1 >> /root/count; wc -l < /root/count").stdout
            print(f"\\nshared={count.strip()}")
        """
    )
    result = run(pytester, hypervisor, "-p", "repeat", "--count=3")
    result.assert_outcomes(passed=6)
    assert numbers(result, "shared") == ["1", "2", "3"]


@pytest.mark.thorough
def test_coroutines_use_guests_in_threads(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    """pytest-asyncio."""
    pytester.makepyfile(
        """
        import asyncio
        import time

        import pytest
        import pytest_asyncio

        @pytest_asyncio.fixture
        async def ready(xhyve_guest):
            await asyncio.to_thread(xhyve_guest.run, "touch /root/ready")
            yield xhyve_guest
            await asyncio.to_thread(xhyve_guest.run, "rm /root/ready")

        @pytest.mark.asyncio
        async def test_in_parallel(ready):
            runs = (asyncio.to_thread(ready.run, f"sleep 1; ls /root; echo {number}") for number in range(4))
            begin = time.monotonic()
            done = await asyncio.gather(*runs)
            assert time.monotonic() - begin < 3
            assert [completed.stdout for completed in done] == [f"ready\\n{number}\\n" for number in range(4)]

        @pytest.mark.asyncio
        async def test_fails(ready):
            await asyncio.to_thread(ready.run, "echo why >&2; exit 3")
        """
    )
    result = run(pytester, hypervisor, "-p", "asyncio")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            '>       await asyncio.to_thread(ready.run, "echo why >&2; exit 3")',
            "E *CommandFailed: command failed with exit code 3",
            "E *why",
        ]
    )
    assert "pytest_xhyve/" not in re.sub(r"ssh -F \S+", "", result.stdout.str())


@pytest.mark.long
def test_guest_is_a_host_of_testinfra(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    """pytest-testinfra, in the place of its own fixture ``host``."""
    pytester.makepyfile(
        r"""
        import pytest

        @pytest.fixture
        def host(xhyve_guest):
            return xhyve_guest.testinfra_host()

        def test_host(host, xhyve_guest):
            assert host.file("/etc/passwd").mode == 0o644
            assert host.file("/etc/passwd").contains("^root:")
            assert host.run("echo %s; exit 3", "it's; $HOME").stdout == "it's; $HOME\n"
            assert host.run("echo %s; exit 3", "ü").rc == 3
            assert host.check_output("printf %s", "ü") == "ü"
            assert host.run(r"printf '\377'").stdout_bytes == b"\xff"
            assert host.interface("lo").exists
            assert host.backend.get_pytest_id() == f"xhyve://{xhyve_guest.name}"
            xhyve_guest.run("touch /root/made && hostname changed")
            xhyve_guest.reboot()
            # The same host is still the guest.
            assert host.file("/root/made").exists

        def test_new_guest_has_a_new_host(host):
            assert not host.file("/root/made").exists

        def test_error_is_theirs(host):
            host.run_expect([0], "echo why >&2; exit 4")
        """
    )
    result = run(pytester, hypervisor, "-p", "pytest11.testinfra")
    result.assert_outcomes(passed=2, failed=1)
    assert "Unexpected exit code 4" in result.stdout.str()
    assert "pytest_xhyve/" not in re.sub(r"ssh -F \S+", "", result.stdout.str())


@pytest.mark.thorough
def test_each_test_runs_in_one_part_of_a_split_suite(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    """pytest-split: two runs with guests of their own, by the durations that a whole run has stored."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_guest(xhyve_guest, number):
            xhyve_guest.run("true")
            print(f"ran={number}")
        """
    )
    run(pytester, hypervisor, "--store-durations").assert_outcomes(passed=4)
    parts = [run(pytester, hypervisor, "--splits=2", f"--group={group}") for group in (1, 2)]
    assert [part.ret for part in parts] == [pytest.ExitCode.OK, pytest.ExitCode.OK]
    ran = [numbers(part, "ran") for part in parts]
    assert all(ran)
    assert sorted(ran[0] + ran[1]) == ["0", "1", "2", "3"]


@pytest.mark.thorough
def test_files_that_are_replaced(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    """pyfakefs: a guest that is requested after it is refused, before anything of the run is harmed."""
    pytest.importorskip("pyfakefs")
    pytester.makepyfile(
        """
        def test_too_late(fs, xhyve_guest):
            pass

        def test_in_time(xhyve_guest, fs):
            fs.create_file("/only/here")
            assert xhyve_guest.run("ls /only", check=False).returncode != 0

        def test_factory(fs, xhyve_guest_factory):
            fs.pause()
            with xhyve_guest_factory() as guest:
                fs.resume()
                guest.run("true")
                fs.pause()

        def test_next(xhyve_guest):
            xhyve_guest.run("true")
        """
    )
    result = run(pytester, hypervisor, "-p", "fakefs")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*cannot start a guest: the files of this host are replaced by those of pyfakefs*"])
    assert not live_guests(Home.of_user().folder("runs"))
