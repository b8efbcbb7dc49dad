"""What a guest sends does nothing to the user's terminal, and does not stop a run."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

TESTS = r"""
    import signal

    EVIL = r"printf 'caf\351 \033]0;title\007\033[2J\n'"

    def test_assertion(xhyve_session_guest):
        assert xhyve_session_guest.run(EVIL).stdout == "cafe\nof two lines\n"

    def test_command(xhyve_session_guest):
        xhyve_session_guest.run(f"{EVIL}; {EVIL} >/dev/console; exit 3")

    def test_print(xhyve_session_guest):
        print(xhyve_session_guest.run(EVIL).stdout.replace("\udce9", ""))
        print("\033[32mgreen\033[0m")
        assert False

    def test_property(xhyve_session_guest, record_property):
        record_property("said", xhyve_session_guest.run(EVIL).stdout)

    def test_interrupted(xhyve_session_guest):
        def interrupt(*_):
            raise TimeoutError

        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 2)
        xhyve_session_guest.run(f"{EVIL}; sleep 100")

    def test_artifact(xhyve_session_guest, tmp_path):
        xhyve_session_guest.run(f"{EVIL} >/tmp/file")
        xhyve_session_guest.get("/tmp/file", tmp_path)
        assert (tmp_path / "file").read_bytes() == b"caf\xe9 \033]0;title\007\033[2J\n"
"""


def test_terminal_and_xdist_get_no_harmful_byte(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    options = ("--xhyve-image=tiny", "--xhyve-hypervisor=qemu", "-n", "1", "--junitxml=junit.xml", "--color=no")
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=2, failed=4)
    shown = "\n".join(result.outlines)
    assert "\x1b[32mgreen" in shown
    assert "\x1b" not in shown.replace("\x1b[32m", "").replace("\x1b[0m", "")
    assert "\x07" not in shown
    result.stdout.fnmatch_lines(
        [">       xhyve_session_guest.run(f*sleep 100*", "E * while a command ran in guest tiny-*"]
    )
    assert "pytest_xhyve/guest/commands.py:" not in shown
    result.stdout.fnmatch_lines(["E *caf\\udce9 \\x1b]0;title\\x07\\x1b[[]2J*"])
    assert r"\x1b]0;title\x07\x1b[2J" in shown.partition("console")[2]
    assert r"caf\udce9" in (pytester.path / "junit.xml").read_text()
