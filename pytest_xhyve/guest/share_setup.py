"""Mount the host's folders in a guest: read-only, below a writable overlay in the guest's memory."""

from __future__ import annotations

import shlex

from pytest_xhyve.guest.root_shell import WithPower, root_shell
from pytest_xhyve.guest.shares import GuestShares, ServedShare
from pytest_xhyve.host.nfs_server import LOOPBACK, READ_BYTES
from pytest_xhyve.model.errors import XhyveError

# nfs(5); the options that only a kernel takes are in its fs/nfs/fs_context.c. The kernel asks for the mount itself, so
# the guest needs no program for it. A server that has ended is an error after a while, and not a process that
# cannot be ended (soft).
_NFS = (
    "ro,nosuid,nodev,vers=3,proto=tcp,mountvers=3,mountproto=tcp,nolock,noacl,noresvport,soft,timeo=50,retrans=2,"
    f"nocto,actimeo=1,rsize={READ_BYTES}"
)
_BEGIN = "uid=$(id -u {user}) && gid=$(id -g {user}) || exit\n"
# What was mounted before this boot of the guest stays as it is: the line runs after each login that may follow a boot.
# An `exit` without a number keeps the exit code of what failed.
_MOUNT = """
base=/run/xhyve-shares/{number}
if [ ! -e "$base/mounted" ]; then
    mkdir -p "$base/host" "$base/changes" {target} &&
        mount -t nfs -o {options} "{source}/$uid/$gid" "$base/host" || exit
    mount -t tmpfs -o mode=0755 xhyve-changes "$base/changes" &&
        mkdir -m {mode:o} "$base/changes/upper" && mkdir "$base/changes/work" &&
        chown "$uid:$gid" "$base/changes/upper" &&
        mount -t overlay \
            -o "nosuid,nodev,lowerdir=$base/host,upperdir=$base/changes/upper,workdir=$base/changes/work" \
            xhyve-share {target} && : >"$base/mounted" || {{ umount "$base/changes"; umount "$base/host"; exit 1; }}
fi
"""


def mount_shares(guest: WithPower, shares: GuestShares, timeout: float) -> None:
    """Mount all shares that are not mounted yet.

    Args:
        guest: a running guest.
        shares: its shares.
        timeout: the limit of each step, in seconds.

    Raises:
        XhyveError: the guest cannot mount a folder; the message states what the guest printed.
    """
    begin = _BEGIN.format(user=shlex.quote(guest.image.user))
    lines = [_line(number, served, shares) for number, served in enumerate(shares.served)]
    try:
        root_shell(guest, timeout)("".join([begin, *lines]), b"")
    except XhyveError as error:
        folders = ", ".join(str(served.share.folder) for served in shares.served)
        raise XhyveError(
            f"cannot mount {folders} in guest {guest.name} (shares=): {error}\n"
            "  its kernel needs the modules nfs, nfsv3 and overlay; guest.sync() copies a folder without them"
        ) from error


def _line(number: int, served: ServedShare, shares: GuestShares) -> str:
    port, address = shares.server.port, shares.address or LOOPBACK
    return _MOUNT.format(
        number=number,
        target=shlex.quote(served.share.target),
        options=f"{_NFS},port={port},mountport={port},addr={address}",
        source=f"{address}:{served.path}",
        mode=served.mode,
    )
