"""The user's terminal."""

from __future__ import annotations

import getpass
import os

from pytest_xhyve.model.secret import Secret


def ask_password(prompt: str) -> Secret | None:
    """The password that the user types at the terminal, which does not show it; None without a terminal, or an answer.

    Standard input and output may lead elsewhere, as under pytest: the terminal is that of the session (tty(4)).
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return None
    try:
        # A process in the background would be stopped.
        if os.tcgetpgrp(terminal) != os.getpgrp():
            return None
    except OSError:
        return None
    finally:
        os.close(terminal)
    try:
        typed = getpass.getpass(prompt)
    except EOFError:
        return None
    return Secret(typed) if typed else None
