"""Checks for the program xhyve on a Mac: whether macOS lets it run, and use vmnet.

The output of macOS's programs is known from their manual pages and from published examples; nothing of it was run on a
Mac of this project. If a check cannot parse an output, it gives a warning with the command, never an error.
"""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterator

from pytest_xhyve.doctor.findings import Finding
from pytest_xhyve.doctor.mac_host import TAHOE, XHYVE, Mac, major_version
from pytest_xhyve.doctor.mac_signature import VIRTUALIZATION, ask, is_entitled, read_signature
from pytest_xhyve.doctor.programs import CommandResult
from pytest_xhyve.host.privilege import KILL, sudoers_line
from pytest_xhyve.hypervisors.xhyve.build import KilledAtOnce, ask_build
from pytest_xhyve.hypervisors.xhyve.limits import BIG_SUR, find_defect, find_obstacle
from pytest_xhyve.model.errors import HypervisorNotFound

NAMES = ("xhyve", "hyperkit")
HYPERVISOR = "com.apple.security.hypervisor"
NETWORKING = "com.apple.vm.networking"

# This sends no signal: kill(1) with 0 only checks whether process 1 exists.
_HARMLESS = (KILL, "-0", "1")
# The compiler is in Xcode's command line tools. Why hyperkit: see `pytest_xhyve.hypervisors.xhyve.limits`.
_BUILD_HYPERKIT = (
    "xcode-select --install\n"
    "git clone https://github.com/moby/hyperkit && make -C hyperkit && "
    "sudo install hyperkit/build/hyperkit /usr/local/bin/"
)


def check_xhyve(mac: Mac) -> Iterator[Finding]:
    """Check which xhyve is installed, whether macOS lets it run, and whether it may use vmnet."""
    path = next(filter(None, map(mac.programs.find, NAMES)), None)
    if path is None:
        detail = f"no {' or '.join(NAMES)} found in PATH; Homebrew does not offer them any more"
        yield Finding("xhyve", "warning", detail, _BUILD_HYPERKIT, XHYVE)
        return
    signature = read_signature(mac, path)
    try:
        build = ask_build(path, lambda argv: ask(mac.programs, argv))
    except KilledAtOnce:
        detail = f"macOS kills {path} when it starts (Killed: 9): its signature is damaged, or claims too much"
        if is_entitled(signature, NETWORKING):
            detail = f"macOS kills {path} when it starts (Killed: 9): only Apple grants {NETWORKING}"
        yield Finding("xhyve", "problem", detail, _sign(path), XHYVE)
        return
    except HypervisorNotFound as error:
        yield Finding("xhyve", "problem", str(error), _BUILD_HYPERKIT, XHYVE)
        return
    obstacle = find_obstacle(build, major_version(mac))
    if obstacle is not None:
        detail = f"{path}, {build.name} {build.version}: {obstacle}; build a current one, and use it instead:"
        yield Finding("xhyve", "problem", detail, _BUILD_HYPERKIT, XHYVE)
        return
    yield Finding("xhyve", "ok", f"{path}, {build.name} {build.version}")
    defect = find_defect(build)
    if defect is not None:
        yield Finding("xhyve's guests", "warning", f"{defect}; hyperkit has mended that:", _BUILD_HYPERKIT)
    yield from _check_entitlement(mac, path, signature)
    yield from _check_privilege(mac, path, signature)


def _sign(path: str) -> str:
    """The commands that sign the program with the one entitlement that every developer may claim."""
    # A new folder of the user's own: in /tmp, another user could replace the file before sudo reads it, and PlistBuddy
    # does not add a key twice.
    return (
        'entitlements="$(mktemp -d)/xhyve.entitlements"\n'
        f"/usr/libexec/PlistBuddy -c 'Add :{HYPERVISOR} bool true' \"$entitlements\"\n"
        f'sudo codesign --force --sign - --entitlements "$entitlements" {shlex.quote(path)}'
    )


def _check_entitlement(mac: Mac, path: str, signature: CommandResult) -> Iterator[Finding]:
    title = "xhyve's signature"
    major = major_version(mac)
    if major is not None and major < BIG_SUR:
        yield Finding(title, "ok", "this macOS does not require one")
    elif is_entitled(signature, HYPERVISOR):
        yield Finding(title, "ok", f"it grants {HYPERVISOR}")
    elif signature.code is None:
        yield Finding(
            title, "warning", f"it is unknown: {signature.reason}", f"codesign -d --entitlements - {shlex.quote(path)}"
        )
    else:
        detail = (
            "it is not signed at all" if "not signed at all" in signature.text else f"it does not grant {HYPERVISOR}"
        )
        yield Finding(title, "problem", f"{detail}; macOS 11 and later then refuse to run it", _sign(path), XHYVE)


def _check_privilege(mac: Mac, path: str, signature: CommandResult) -> Iterator[Finding]:
    title = "right to use vmnet"
    found = mac.stat(path)
    if mac.euid == 0:
        yield Finding(title, "ok", "this is root")
    elif found.st_uid == 0 and found.st_mode & stat.S_ISUID:
        yield Finding(title, "ok", f"{path} is setuid root")
    elif is_entitled(signature, NETWORKING):
        # Apple has approved this: otherwise macOS would have killed the program before it printed its version.
        yield Finding(title, "ok", f"the signature grants {NETWORKING}")
    elif (major_version(mac) or 0) >= TAHOE and is_entitled(signature, VIRTUALIZATION):
        # nirs/vmnet-helper#135, #136.
        yield Finding(title, "ok", f"the signature grants {VIRTUALIZATION}, which is enough on macOS 26")
    elif all(mac.programs.run(["/usr/bin/sudo", "-n", "--", *argv]).code == 0 for argv in ([path, "-v"], _HARMLESS)):
        yield Finding(title, "ok", f"sudo runs it and {KILL} without a password")
    else:
        detail = f"vmnet needs root, but sudo does not run {path} and {KILL} without a password"
        yield Finding(title, "problem", detail, _allow(mac, path), XHYVE)


def _allow(mac: Mac, path: str) -> str:
    """The commands that let this user run and kill xhyve as root; two alternatives.

    root becomes the owner of the file: a user who can write to it could run anything as root.
    """
    file = "/etc/sudoers.d/pytest-xhyve"
    rule = shlex.quote(sudoers_line(path, mac.user))
    program = shlex.quote(path)
    return (
        # Not echo, because some shells interpret backslashes in its arguments.
        f"sudo chown root:wheel {program} && printf '%s\\n' {rule} | sudo tee {file} && sudo chmod 440 {file} "
        "&& sudo visudo -c\n"
        # "or:" is not a command, so a user who pastes both lines runs only the first.
        f"or: sudo chown root:wheel {program} && sudo chmod u+s {program}"
    )
