"""Checks for the program xhyve on a Mac: that macOS lets it run, and use vmnet.

What the programs of macOS answer is known from their manual pages and from people who showed it; nothing of it was run
on a Mac of ours. An answer that is not understood is a warning with the question in it, never an error.
"""

from __future__ import annotations

import re
import shlex
import stat
from collections.abc import Iterator, Sequence

from pytest_xhyve.doctor.findings import Finding
from pytest_xhyve.doctor.mac_host import BIG_SUR, XHYVE, Mac, major_version
from pytest_xhyve.doctor.programs import CommandResult, CommandRunner
from pytest_xhyve.host.privilege import KILL, sudoers_line
from pytest_xhyve.hypervisors.xhyve.build import KilledAtOnce, ask_build
from pytest_xhyve.model.errors import HypervisorNotFound

NAMES = ("xhyve", "hyperkit")
HYPERVISOR = "com.apple.security.hypervisor"
NETWORKING = "com.apple.vm.networking"

# Signals nobody: kill(1) with 0 only asks whether there is process 1.
_HARMLESS = (KILL, "-0", "1")
_BUILD_XHYVE = (
    "git clone https://github.com/machyve/xhyve && make -C xhyve && sudo install xhyve/build/xhyve /usr/local/bin/"
)


def check_xhyve(mac: Mac) -> Iterator[Finding]:
    """Which xhyve there is, whether macOS lets it run, and whether it may use vmnet."""
    path = next(filter(None, map(mac.programs.find, NAMES)), None)
    if path is None:
        seen = f"there is no {' or '.join(NAMES)} in PATH; Homebrew has neither any more"
        yield Finding("xhyve", "warning", seen, _BUILD_XHYVE, XHYVE)
        return
    signature = _signature(mac, path)
    try:
        build = ask_build(path, lambda argv: _ask(mac.programs, argv))
    except KilledAtOnce:
        seen = f"macOS kills {path} when it starts (Killed: 9): its signature is damaged, or claims too much"
        if _is_entitled(signature, NETWORKING):
            seen = f"macOS kills {path} when it starts (Killed: 9): {NETWORKING} is for those whom Apple gave it"
        yield Finding("xhyve", "problem", seen, _sign(path), XHYVE)
        return
    except HypervisorNotFound as error:
        yield Finding("xhyve", "problem", str(error), _BUILD_XHYVE, XHYVE)
        return
    yield Finding("xhyve", "ok", f"{path}, {build.name} {build.version}")
    yield from _check_entitlement(mac, path, signature)
    yield from _check_privilege(mac, path, signature)


def _ask(programs: CommandRunner, argv: Sequence[str]) -> tuple[int | None, str]:
    answer = programs.run(argv)
    return answer.code, answer.text


def _signature(mac: Mac, path: str) -> CommandResult:
    return mac.programs.run(["/usr/bin/codesign", "-d", "--entitlements", "-", path])


def _is_entitled(signature: CommandResult, name: str) -> bool:
    """Whether codesign's answer grants *name*, in the form of macOS 12 and later, or as a property list before."""
    key = re.escape(name)
    granted = rf"\[Key\] {key}\s+\[Value\]\s+\[Bool\] true|<key>{key}</key>\s*<true\s*/>"
    return re.search(granted, signature.out) is not None


def _sign(path: str) -> str:
    """Sign with the one entitlement that anybody may claim."""
    file = "/tmp/xhyve.entitlements"  # noqa: S108  # in a command for a person, who sees it
    return (
        f"/usr/libexec/PlistBuddy -c 'Add :{HYPERVISOR} bool true' {file}\n"
        f"sudo codesign --force --sign - --entitlements {file} {shlex.quote(path)}"
    )


def _check_entitlement(mac: Mac, path: str, signature: CommandResult) -> Iterator[Finding]:
    title = "xhyve's signature"
    major = major_version(mac)
    if major is not None and major < BIG_SUR:
        yield Finding(title, "ok", "this macOS asks for none")
    elif _is_entitled(signature, HYPERVISOR):
        yield Finding(title, "ok", f"grants {HYPERVISOR}")
    elif signature.code is None:
        yield Finding(
            title, "warning", f"is unknown: {signature.reason}", f"codesign -d --entitlements - {shlex.quote(path)}"
        )
    else:
        seen = "it is not signed at all" if "not signed at all" in signature.text else f"has no {HYPERVISOR}"
        yield Finding(title, "problem", f"{seen}, without which macOS 11 and later refuse it", _sign(path), XHYVE)


def _check_privilege(mac: Mac, path: str, signature: CommandResult) -> Iterator[Finding]:
    title = "right to use vmnet"
    found = mac.stat(path)
    if mac.euid == 0:
        yield Finding(title, "ok", "this is root")
    elif found.st_uid == 0 and found.st_mode & stat.S_ISUID:
        yield Finding(title, "ok", f"{path} is setuid root")
    elif _is_entitled(signature, NETWORKING):
        # Apple's approval: without it, the program would have been killed before it said its version.
        yield Finding(title, "ok", f"the signature grants {NETWORKING}")
    elif all(mac.programs.run(["/usr/bin/sudo", "-n", "--", *argv]).code == 0 for argv in ([path, "-v"], _HARMLESS)):
        yield Finding(title, "ok", f"sudo runs it, and {KILL}, without asking")
    else:
        seen = f"vmnet wants root, and sudo does not run {path} and {KILL} without asking"
        yield Finding(title, "problem", seen, _allow(mac, path), XHYVE)


def _allow(mac: Mac, path: str) -> str:
    """Let this user run xhyve as root, and end it, in either of two ways.

    The file becomes root's: whoever can write it could have anything run as root.
    """
    file = "/etc/sudoers.d/pytest-xhyve"
    rule = shlex.quote(sudoers_line(path, mac.user))
    program = shlex.quote(path)
    return (
        # Not echo, for which backslashes have a meaning in some shells.
        f"sudo chown root:wheel {program} && printf '%s\\n' {rule} | sudo tee {file} && sudo chmod 440 {file} "
        "&& sudo visudo -c\n"
        # No command, so that who pastes all does only the first.
        f"or: sudo chown root:wheel {program} && sudo chmod u+s {program}"
    )
