"""Let guests use the host's VPNs: add the rules to macOS's packet filter that vmnet leaves out.

vmnet lets macOS's Internet Sharing translate the guests' addresses, but only for the interfaces of the default route at
its start. A VPN that covers only some networks, or that connects later, is not among them. Its tunnel then carries
packets from 192.168.64.x, which the other end drops (machyve/xhyve#84, kubernetes/minikube#706, cirruslabs/tart#384,
utmapp/UTM#3238). One ``nat`` rule for each tunnel helps.

These rules need an anchor that macOS evaluates and that no other program uses. macOS evaluates an anchor only if the
main ruleset calls it (pf.conf(5), ANCHORS). macOS's own /etc/pf.conf has ``nat-anchor "com.apple/*"``, which calls
every anchor directly below ``com.apple``. So a new anchor there needs no change to a file or to the main ruleset. The
gist mowings/633a16372fb30ee652336c8417091222, to which the threads above link, uses ``com.apple/tun`` in this way. The
rules of Internet Sharing itself are in ``com.apple.internet-sharing/shared_v4``, which macOS may rewrite at any time.
"""

from __future__ import annotations

import plistlib
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
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
# The user may have to type a password.
_SUDO_SECONDS = 120.0

_INTERFACE = re.compile(r"^(\S+?): flags=[0-9a-f]+<([^>]*)>", re.IGNORECASE)
_ADDRESS = re.compile(r"^\s+inet (\d+\.\d+\.\d+\.\d+)(?: --> \S+)? netmask 0x([0-9a-f]{8})\b")
# vmnet's first bridge; one more is there for each network that another program made.
_BRIDGE = re.compile(r"bridge1\d\d")
_RULE = re.compile(r"^nat on (\S+) ", re.MULTILINE)
_TOKEN = re.compile(r"^Token : (\d+)", re.MULTILINE)
# Lines that macOS's pfctl prints on every call, or whenever it reads rules.
_CHATTER = (
    "No ALTQ support in kernel",
    "ALTQ related functions disabled",
    "pfctl: Use of -f option, could result in flushing of rules",
    "present in the main ruleset added by the system at startup.",
    "See /etc/pf.conf for further details.",
)


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface of the host, with its IPv4 addresses and their networks."""

    name: str
    up: bool
    addresses: tuple[IPv4Interface, ...]


def read_interfaces(programs: CommandRunner) -> tuple[Interface, ...]:
    """The interfaces of a Mac.

    Raises:
        XhyveError: ifconfig failed.
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
            address = IPv4Interface((match[1], str(IPv4Address(int(match[2], 16)))))
            found[-1] = Interface(last.name, last.up, (*last.addresses, address))
    return tuple(found)


def active_tunnels(interfaces: Sequence[Interface]) -> tuple[str, ...]:
    """The tunnels that VPNs use; macOS also has its own utun interfaces, but these have no IPv4 address."""
    return tuple(each.name for each in interfaces if re.fullmatch(r"utun\d+", each.name) and each.up and each.addresses)


def read_subnet(plist: Path = VMNET_PLIST) -> IPv4Network:
    """The network that vmnet shares with guests; vmnet's default if the file does not exist yet.

    Raises:
        XhyveError: the file cannot be read, or does not contain a valid network.
    """
    try:
        # The file is binary or XML; plistlib detects the format.
        values = plistlib.loads(plist.read_bytes())
        address = values.get("Shared_Net_Address", "192.168.64.1")
        return IPv4Network(f"{address}/{values.get('Shared_Net_Mask', '255.255.255.0')}", strict=False)
    except FileNotFoundError:
        return DEFAULT_SUBNET
    except OSError as error:
        raise XhyveError(f"{plist}: {error.strerror}") from error
    except (ValueError, AttributeError, ExpatError) as error:
        raise XhyveError(f"{plist} is damaged: {error}") from error


def find_subnet(interfaces: Sequence[Interface], plist: Path = VMNET_PLIST) -> IPv4Network:
    """The network that vmnet shares with guests: that of its bridge while a guest runs, or else that of its settings.

    macOS 26 does not follow the settings (canonical/multipass#4581), so only the bridge is certain.

    Raises:
        XhyveError: no guest runs, and the file cannot be read, or does not contain a valid network.
    """
    bridge = find_bridge(interfaces)
    return bridge.addresses[0].network if bridge is not None else read_subnet(plist)


def find_bridge(interfaces: Sequence[Interface]) -> Interface | None:
    """The bridge of vmnet's shared network, which exists while a guest runs; None if there is none."""
    return next(
        (each for each in interfaces if each.up and each.addresses and _BRIDGE.fullmatch(each.name)),
        None,
    )


def find_clash(interfaces: Sequence[Interface], subnet: IPv4Network) -> tuple[Interface, IPv4Network] | None:
    """An interface of the host, other than vmnet's bridges, whose network overlaps *subnet*; None if there is none."""
    return next(
        (
            (each, address.network)
            for each in interfaces
            if each.up and not _BRIDGE.fullmatch(each.name)
            for address in each.addresses
            if address.network.overlaps(subnet)
        ),
        None,
    )


def rules_for(tunnels: Sequence[str], subnet: IPv4Network) -> str:
    """The rules that translate addresses in *subnet* to the address of each tunnel (pf.conf(5), TRANSLATION)."""
    # In parentheses, an interface stands for its current address, even after the VPN has changed it.
    return "".join(f"nat on {tunnel} inet from {subnet} to any -> ({tunnel})\n" for tunnel in tunnels)


def translated(programs: CommandRunner, euid: int) -> frozenset[str]:
    """The interfaces that already have a rule, from this plugin or from macOS; empty if only root may see the rules."""
    found: set[str] = set()
    for anchor in (ANCHOR, SHARING_ANCHOR):
        answer = programs.run([*as_root(euid, ask=False), _PFCTL, "-a", anchor, "-s", "nat"])
        if answer.code == 0:
            found.update(_RULE.findall(answer.out))
    return frozenset(found)


def as_root(euid: int, *, ask: bool) -> tuple[str, ...]:
    """The arguments to put before a command that needs root.

    Args:
        euid: the current user's id.
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
    """Let macOS translate guests' addresses for every connected VPN, if the user agrees.

    Before the user agrees, nothing runs as root. The rules last until the Mac restarts.

    Args:
        programs: runs the host's programs.
        platform: the value of `sys.platform`.
        euid: the current user's id; if it is not 0, commands run with sudo.
        confirm: asks a question; returns whether the answer was yes.
        report: called with each line of output.
        plist: the path of vmnet's settings.

    Returns:
        whether guests can use all VPNs; also True if no VPN is connected, and False if the user did not agree.

    Raises:
        NotSupported: this host is not a Mac.
        XhyveError: a program failed; the message states what was changed, and how to undo it.
    """
    if platform != "darwin":
        raise NotSupported(
            f"--fix-vpn changes macOS's packet filter, but this is {platform}; guests under QEMU use the host's "
            "routes, including those of a VPN"
        )
    interfaces = read_interfaces(programs)
    tunnels = active_tunnels(interfaces)
    if not tunnels:
        report("no VPN is connected: no utun interface has an IPv4 address; nothing was changed")
        return True
    packet_filter = _PacketFilter(programs, as_root(euid, ask=True))
    rules = rules_for(tunnels, find_subnet(interfaces, plist))
    report("these commands will run:")
    for line in packet_filter.describe(rules):
        report(f"  {line}")
    if not confirm("Run them?"):
        report("nothing was changed")
        return False
    token = packet_filter.load(rules)
    report(f"guests can now reach the networks behind {', '.join(tunnels)}, until this Mac restarts")
    report("if a VPN connects later, or again under another name, run `pytest-xhyve doctor --fix-vpn` again")
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
        """The command that removes the plugin's rules."""
        return self.line("-a", ANCHOR, "-F", "nat")

    def line(self, *arguments: str) -> str:
        """The command line with *arguments*, ready to paste."""
        return shlex.join([*self._root, _PFCTL, *arguments])

    def describe(self, rules: str) -> list[str]:
        """The commands that `load` will run."""
        return [
            f"{self.line('-s', 'nat')}    # does the main ruleset call com.apple/*?",
            f"{self.line('-a', ANCHOR, '-f', '-')}    # replaces the rules of this anchor by:",
            *(f"    {rule}" for rule in rules.splitlines()),
            f"{self.line('-s', 'info')}    # is the packet filter on?",
            f"{self.line('-E')}    # only if it is off",
        ]

    def load(self, rules: str) -> str | None:
        """Load *rules*, and enable the packet filter if it is disabled.

        Returns:
            the token that disables the packet filter again, or None if it was enabled before.

        Raises:
            XhyveError: a command failed; the message states what was changed, and how to undo it.
        """
        main = self._ask("-s", "nat")
        if main.code != 0:
            raise XhyveError(f"{self.line('-s', 'nat')} failed: {_relevant_output(main)}\n  nothing was changed")
        if CALL_OF_ANCHOR not in main.text:
            raise XhyveError(
                f"the packet filter's main ruleset has no {CALL_OF_ANCHOR}, so the rules would have no effect\n"
                f"  nothing was changed; `{self.line('-f', '/etc/pf.conf')}` loads macOS's own ruleset again, if that "
                "file still contains the line"
            )
        loading = self._ask("-a", ANCHOR, "-f", "-", stdin=rules)
        if loading.code != 0:
            raise XhyveError(
                f"{self.line('-a', ANCHOR, '-f', '-')} failed: {_relevant_output(loading)}\n"
                f"  to remove all of it: {self.undo}"
            )
        state = self._ask("-s", "info")
        if state.code == 0 and "Status: Enabled" in state.text:
            return None
        if state.code != 0 or "Status: Disabled" not in state.text:
            raise XhyveError(
                f"the rules are loaded, but the packet filter's state is unknown: {_relevant_output(state)}\n"
                f"  to enable it: {self.line('-E')}\n  to undo it: {self.undo}"
            )
        # -E counts references (pfctl(8)): the filter stays enabled while a program needs it, and -X releases this one.
        enabling = self._ask("-E")
        token = _TOKEN.search(enabling.text)
        if enabling.code != 0 or token is None:
            raise XhyveError(
                f"the rules are loaded, but the packet filter could not be enabled: {_relevant_output(enabling)}\n"
                f"  to undo it: {self.undo}"
            )
        return token[1]

    def _ask(self, *arguments: str, stdin: str = "") -> CommandResult:
        return self._programs.run([*self._root, _PFCTL, *arguments], stdin=stdin, timeout=_SUDO_SECONDS)


def _relevant_output(answer: CommandResult) -> str:
    """The output of pfctl without the lines that it always prints."""
    lines = [line.strip() for line in answer.text.splitlines()]
    return "; ".join(line for line in lines if line and line not in _CHATTER) or f"exit code {answer.code}"
