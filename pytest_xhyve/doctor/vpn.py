"""Guests behind a VPN of the host's: macOS's packet filter gets the rules that vmnet leaves out.

vmnet has macOS's Internet Sharing translate the guests' addresses for the interfaces that are the host's way out when
it starts. A VPN that covers only some networks, or comes up later, is none of them: its tunnel carries packets from
192.168.64.x, which the other end drops (machyve/xhyve#84, kubernetes/minikube#706, cirruslabs/tart#384,
utmapp/UTM#3238). What helps there is one ``nat`` rule for each tunnel.

Those rules need a place that is evaluated and is nobody else's. A ruleset in an anchor is evaluated only where the
main ruleset calls it (pf.conf(5), ANCHORS), and macOS's own /etc/pf.conf has ``nat-anchor "com.apple/*"``, which
calls every anchor right below ``com.apple``. So an anchor of our own there needs no change to any file or to the main
ruleset; the gist mowings/633a16372fb30ee652336c8417091222, which the threads above point to, does it with
``com.apple/tun``. The rules of Internet Sharing itself are in ``com.apple.internet-sharing/shared_v4``, which macOS
rewrites as it likes.
"""

from __future__ import annotations

import plistlib
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from xml.parsers.expat import ExpatError

from pytest_xhyve.doctor.programs import CommandResult, CommandRunner
from pytest_xhyve.model.errors import NotSupported, XhyveError

ANCHOR = "com.apple/pytest-xhyve"
SHARING_ANCHOR = "com.apple.internet-sharing/shared_v4"
CALL_OF_ANCHOR = 'nat-anchor "com.apple/*"'
VMNET_PLIST = Path("/Library/Preferences/SystemConfiguration/com.apple.vmnet.plist")
DEFAULT_SUBNET = IPv4Network("192.168.64.0/24")

_IFCONFIG = "/sbin/ifconfig"
_PFCTL = "/sbin/pfctl"
_SUDO = "/usr/bin/sudo"
# Somebody may have to type a password.
_SUDO_SECONDS = 120.0

_INTERFACE = re.compile(r"^(\S+?): flags=[0-9a-f]+<([^>]*)>", re.IGNORECASE)
_ADDRESS = re.compile(r"^\s+inet (\d+\.\d+\.\d+\.\d+)\s")
_RULE = re.compile(r"^nat on (\S+) ", re.MULTILINE)
_TOKEN = re.compile(r"^Token : (\d+)", re.MULTILINE)
# What macOS's pfctl says whatever it is asked, and whenever it reads rules.
_CHATTER = (
    "No ALTQ support in kernel",
    "ALTQ related functions disabled",
    "pfctl: Use of -f option, could result in flushing of rules",
    "present in the main ruleset added by the system at startup.",
    "See /etc/pf.conf for further details.",
)


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface of the host, with its IPv4 addresses."""

    name: str
    up: bool
    addresses: tuple[str, ...]


def read_interfaces(programs: CommandRunner) -> tuple[Interface, ...]:
    """The interfaces of a Mac.

    Raises:
        XhyveError: ifconfig does not work.
    """
    answer = programs.run([_IFCONFIG, "-a"])
    if answer.code != 0:
        raise XhyveError(f"{_IFCONFIG} -a failed: {answer.reason}")
    found: list[Interface] = []
    for line in answer.out.splitlines():
        if match := _INTERFACE.match(line):
            found.append(Interface(match[1], "UP" in match[2].split(","), ()))
        elif found and (match := _ADDRESS.match(line)):
            last = found[-1]
            found[-1] = Interface(last.name, last.up, (*last.addresses, match[1]))
    return tuple(found)


def active_tunnels(interfaces: Sequence[Interface]) -> tuple[str, ...]:
    """The tunnels that a VPN uses: macOS keeps some utun for itself, which have no IPv4 address."""
    return tuple(each.name for each in interfaces if re.fullmatch(r"utun\d+", each.name) and each.up and each.addresses)


def read_subnet(plist: Path = VMNET_PLIST) -> IPv4Network:
    """The network that vmnet shares with guests; its default where the file is not there, as before vmnet's first use.

    Raises:
        XhyveError: the file cannot be read, or means no network.
    """
    try:
        # In Apple's binary format or as XML: plistlib tells which it is.
        values = plistlib.loads(plist.read_bytes())
        address = values.get("Shared_Net_Address", "192.168.64.1")
        return IPv4Network(f"{address}/{values.get('Shared_Net_Mask', '255.255.255.0')}", strict=False)
    except FileNotFoundError:
        return DEFAULT_SUBNET
    except OSError as error:
        raise XhyveError(f"{plist}: {error.strerror}") from error
    except (ValueError, AttributeError, ExpatError) as error:
        raise XhyveError(f"{plist} is damaged: {error}") from error


def rules_for(tunnels: Sequence[str], subnet: IPv4Network) -> str:
    """The rules that give guests in *subnet* the address of the tunnel that they leave by (pf.conf(5), TRANSLATION)."""
    # In parentheses, the address is that which the interface has at the time, also after the VPN has changed it.
    return "".join(f"nat on {tunnel} inet from {subnet} to any -> ({tunnel})\n" for tunnel in tunnels)


def translated(programs: CommandRunner, euid: int) -> frozenset[str]:
    """The interfaces that have a rule already, by this plugin or by macOS; none where only root may see that."""
    found: set[str] = set()
    for anchor in (ANCHOR, SHARING_ANCHOR):
        answer = programs.run([*as_root(euid, ask=False), _PFCTL, "-a", anchor, "-s", "nat"])
        if answer.code == 0:
            found.update(_RULE.findall(answer.out))
    return frozenset(found)


def as_root(euid: int, *, ask: bool) -> tuple[str, ...]:
    """What stands before a command that needs root.

    Args:
        euid: the user who we are.
        ask: whether sudo may ask for a password.
    """
    if euid == 0:
        return ()
    return (_SUDO,) if ask else (_SUDO, "-n")


def fix_vpn(
    programs: CommandRunner,
    *,
    platform: str,
    euid: int,
    confirm: Callable[[str], bool],
    report: Callable[[str], None],
    plist: Path = VMNET_PLIST,
) -> bool:
    """Have macOS translate guests' addresses for every VPN that is up, once somebody has agreed.

    Until then nothing is run as root. The rules last until the Mac restarts.

    Args:
        programs: runs the host's programs.
        platform: as `sys.platform` has it.
        euid: the user who we are; sudo is used when it is not 0.
        confirm: asks a question, and says whether the answer was yes.
        report: gets what is shown, a line each.
        plist: vmnet's settings.

    Returns:
        whether the guests' VPNs are taken care of: also when there are none, and not when the answer was no.

    Raises:
        NotSupported: this is no Mac.
        XhyveError: a program failed; the message says what was changed until then, and how to undo that.
    """
    if platform != "darwin":
        raise NotSupported(
            f"--fix-vpn is about macOS's packet filter, and this is {platform}; QEMU's guests use the host's routes, "
            "the VPN's too"
        )
    tunnels = active_tunnels(read_interfaces(programs))
    if not tunnels:
        report("no VPN is up: no utun interface has an IPv4 address; nothing was changed")
        return True
    packet_filter = _PacketFilter(programs, as_root(euid, ask=True))
    rules = rules_for(tunnels, read_subnet(plist))
    report("this will be run:")
    for line in packet_filter.describe(rules):
        report(f"  {line}")
    if not confirm("Run it?"):
        report("nothing was changed")
        return False
    token = packet_filter.load(rules)
    report(f"guests reach what is behind {', '.join(tunnels)} now, until this Mac restarts")
    report("a VPN that comes up later, or anew under another name, takes another `pytest-xhyve doctor --fix-vpn`")
    report("to undo it:")
    report(f"  {packet_filter.undo}")
    if token is not None:
        report(f"  {packet_filter.line('-X', token)}")
    return True


class _PacketFilter:
    """macOS's packet filter, changed through pfctl(8)."""

    def __init__(self, programs: CommandRunner, root: Sequence[str]) -> None:
        self._programs = programs
        self._root = root

    @property
    def undo(self) -> str:
        """The command that takes our rules away."""
        return self.line("-a", ANCHOR, "-F", "nat")

    def line(self, *arguments: str) -> str:
        """The command line with *arguments*, as it can be pasted."""
        return shlex.join([*self._root, _PFCTL, *arguments])

    def describe(self, rules: str) -> list[str]:
        """What `load` will run."""
        return [
            f"{self.line('-s', 'nat')}    # does the main ruleset call com.apple/*?",
            f"{self.line('-a', ANCHOR, '-f', '-')}    # reads, in the place of the rules that are in there:",
            *(f"    {rule}" for rule in rules.splitlines()),
            f"{self.line('-s', 'info')}    # is the packet filter on?",
            f"{self.line('-E')}    # only if it is off",
        ]

    def load(self, rules: str) -> str | None:
        """Load *rules*, and switch the filter on if it is off.

        Returns:
            the token by which it is switched off again, or None where it was on.
        """
        main = self._ask("-s", "nat")
        if main.code != 0:
            raise XhyveError(f"{self.line('-s', 'nat')} failed: {_words(main)}\n  nothing was changed")
        if CALL_OF_ANCHOR not in main.text:
            raise XhyveError(
                f"the packet filter's main ruleset has no {CALL_OF_ANCHOR}, so that rules below it would do nothing\n"
                f"  nothing was changed; `{self.line('-f', '/etc/pf.conf')}` loads macOS's own ruleset again, if that "
                "file still has the line"
            )
        loading = self._ask("-a", ANCHOR, "-f", "-", stdin=rules)
        if loading.code != 0:
            raise XhyveError(
                f"{self.line('-a', ANCHOR, '-f', '-')} failed: {_words(loading)}\n"
                f"  to be sure that nothing of it is left: {self.undo}"
            )
        state = self._ask("-s", "info")
        if state.code == 0 and "Status: Enabled" in state.text:
            return None
        if state.code != 0 or "Status: Disabled" not in state.text:
            raise XhyveError(
                f"the rules are loaded, and it is not known whether the packet filter is on: {_words(state)}\n"
                f"  to switch it on: {self.line('-E')}\n  to undo it: {self.undo}"
            )
        # With a reference (pfctl(8)), so that it is on as long as anybody needs it, and -X gives back just ours.
        enabling = self._ask("-E")
        token = _TOKEN.search(enabling.text)
        if enabling.code != 0 or token is None:
            raise XhyveError(
                f"the rules are loaded, and the packet filter could not be switched on: {_words(enabling)}\n"
                f"  to undo it: {self.undo}"
            )
        return token[1]

    def _ask(self, *arguments: str, stdin: str = "") -> CommandResult:
        return self._programs.run([*self._root, _PFCTL, *arguments], stdin=stdin, timeout=_SUDO_SECONDS)


def _words(answer: CommandResult) -> str:
    """What pfctl said that it does not always say."""
    lines = [line.strip() for line in answer.text.splitlines()]
    return "; ".join(line for line in lines if line and line not in _CHATTER) or f"code {answer.code}"
