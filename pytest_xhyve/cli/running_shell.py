"""A shell in a guest that another process has started."""

from __future__ import annotations

import subprocess

from pytest_xhyve.cli.run_guest import shell_options
from pytest_xhyve.cli.ssh_client import find_ssh
from pytest_xhyve.guest.ssh_config import CONFIG, block_name
from pytest_xhyve.host.runs import GuestRecord
from pytest_xhyve.model.errors import XhyveError


def run_shell_in(guest: GuestRecord) -> int:
    """Run a shell in the running *guest*, by OpenSSH's client; return the exit code.

    Raises:
        XhyveError: the guest does not accept logins yet, or ssh is not installed.
    """
    ssh, config = find_ssh(), guest.folder / CONFIG
    if not config.exists():
        raise XhyveError(
            f"guest {guest.name} is still starting, so it accepts no login yet\n"
            f"  `pytest-xhyve console {guest.name}` shows what it does"
        )
    # In a cluster, its record has a number behind the name. The terminal's signals go to ssh, too.
    return subprocess.run([ssh, "-F", str(config), *shell_options(), block_name(config)], check=False).returncode
