"""The phases of a start that the console shows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_xhyve.guest.boot_phases import BANNER, FIRMWARE, INIT, INITRD, KERNEL, LOGIN, BootPhases
from pytest_xhyve.model.errors import BootTimeout

SYSTEMD = (
    b"SeaBIOS (version 1.16)\r\n",
    b"[    0.000000] Linux version 6.1.0\r\n",
    b"[    1.578291] Run /init as init process\r\n",
    b"[    2.847782] systemd[1]: systemd 252 running in system mode\r\n",
    b"[  OK  ] Reached target multi-user.target - Multi-User System.\r\n",
)
BUSYBOX = (
    b"[    0.000000] Linux version 6.1.0\r\n",
    b"[    1.8] Run /init as init process\r\n",
    b"[    2.387399] Not activating Mandatory Access Control as /sbin/tomoyo-init does not exist.\r\n",
    b"\r\ntiny-0 login: ",
)


def test_each_phase_is_seen() -> None:
    for boot in (SYSTEMD, BUSYBOX):
        entered: list[str] = []
        phases = BootPhases(on_enter=entered.append)
        for said in boot:
            phases.feed(said)
        phases.enter(LOGIN)
        assert entered == [FIRMWARE, KERNEL, INITRD, INIT, BANNER, LOGIN]
        assert list(phases.seconds()) == entered
        assert phases.current == LOGIN


def test_kernel_without_an_initrd_goes_on_to_init() -> None:
    phases = BootPhases()
    phases.feed(b"[    1.0] Linux version 6.1\r\n[    2.000000] Run /sbin/init as init process\r\n")
    assert phases.current == INIT


def test_silence_is_known() -> None:
    phases = BootPhases()
    phases.feed(b"iPXE (http://ipxe.org)\r\n")
    assert phases.is_silent
    phases.feed(b"[    0.000000] x86/fpu: legacy\r\n")
    assert not phases.is_silent


def test_restored_guest_has_no_boot() -> None:
    phases = BootPhases("restore")
    phases.enter(BANNER)
    # The output of its template's boot.
    phases.feed(b"".join(SYSTEMD))
    assert list(phases.seconds()) == ["restore", BANNER]


@given(st.lists(st.sampled_from([*SYSTEMD, *BUSYBOX, b"", b"\xff\x00"])))
def test_it_never_goes_back(said: list[bytes]) -> None:
    order = [FIRMWARE, KERNEL, INITRD, INIT, BANNER]
    entered: list[str] = []
    phases = BootPhases(on_enter=entered.append)
    for text in said:
        phases.feed(text)
    phases.stop()
    assert entered == sorted(set(entered), key=order.index)
    assert all(seconds >= 0 for seconds in phases.seconds().values())


def test_error_states_phases_console_and_hints() -> None:
    error = BootTimeout("debian12 did not answer on SSH within 120 s", console="a\nb")
    assert str(error) == "debian12 did not answer on SSH within 120 s\n  last on the console:\n    a\n    b"
    error.phases = {"kernel": 6.04, "init": 113.9}
    error.hints = ("give it more time: --xhyve-timeout-factor=2",)
    assert error.phase == "init"
    assert str(error).splitlines() == [
        "debian12 did not answer on SSH within 120 s",
        "  it got as far as: init (kernel 6.0 s · init 113.9 s)",
        "  last on the console:",
        "    a",
        "    b",
        "  what may help:",
        "    give it more time: --xhyve-timeout-factor=2",
    ]
    silent = BootTimeout("debian12 did not answer")
    silent.phases = {"firmware": 120.0}
    assert "the console is empty" in str(silent)
