"""Let a guest's network manager, systemd-networkd, leave the cards of its LANs alone.

A manager that takes every card asks for an address by DHCP on a LAN, where no server answers, and then, or whenever the
cable was pulled, removes the address that the plugin has set. What it is given here lasts until the guest reboots.

Source: systemd.network(5), networkctl(1) and systemd-networkd 252, which writes its state to that file.
"""

from __future__ import annotations

LEAVE_ALONE = """
leave_alone() {
    if [ -e /run/systemd/netif/state ] && systemctl --quiet is-active systemd-networkd; then
        mkdir -p /run/systemd/network
        printf '[Match]\\nName=%s\\n[Link]\\nUnmanaged=yes\\n' "$1" >"/run/systemd/network/00-lan-$1.network"
        until_left "networkctl reload" "networkctl list --no-legend --no-pager $1" " unmanaged" "$1"
    fi
}
until_left() {
    for again in 1 2 3 4 5 6 7 8 9 10; do
        $1 >/dev/null 2>&1
        if $2 2>/dev/null | grep -qF "$3"; then return; fi
        sleep 0.3
    done
    echo "the network manager does not leave $4 alone: $($2 2>&1)" >&2
    return 1
}
"""
"""Shell functions. ``leave_alone CARD`` fails if a manager that runs does not leave the card alone within seconds."""
