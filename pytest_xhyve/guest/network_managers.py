"""Let a guest's network manager, systemd-networkd or NetworkManager, leave the cards of its LANs alone.

A manager that takes every card asks for an address by DHCP on a LAN, where no server answers, and then, or whenever the
cable was pulled, removes the address that the plugin has set. What it is given here lasts until the guest reboots. A
manager that starts only later finds it, too.

Sources: systemd.network(5), networkctl(1), NetworkManager.conf(5) with "Device List Format", and nmcli(1).
"""

from __future__ import annotations

LEAVE_ALONE = r"""
leave_alone() {
    if command -v networkctl >/dev/null; then
        mkdir -p /run/systemd/network
        printf '[Match]\nName=%s\n[Link]\nUnmanaged=yes\n' "$1" >"/run/systemd/network/00-lan-$1.network"
        if has_begun systemd-networkd; then
            until_left "networkctl reload" "networkctl list --no-legend --no-pager $1" " unmanaged" "$1" || return
        fi
    fi
    if command -v nmcli >/dev/null; then
        mkdir -p /run/NetworkManager/conf.d
        printf '[device-lan-%s]\nmatch-device=interface-name:=%s\nmanaged=0\n' "$1" "$1" \
            >"/run/NetworkManager/conf.d/lan-$1.conf"
        if has_begun NetworkManager; then
            until_left "nmcli device set $1 managed no" "nmcli -t -f DEVICE,STATE device" "$1:unmanaged" "$1" || return
        fi
    fi
}
has_begun() {
    case $(systemctl is-active "$1" 2>/dev/null) in active | activating | reloading) ;; *) return 1 ;; esac
}
until_left() {
    for again in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        $1 >/dev/null 2>&1
        if LC_ALL=C $2 2>/dev/null | grep -qF "$3"; then return; fi
        sleep 0.3
    done
    echo "the network manager does not leave $4 alone: $($2 2>&1)" >&2
    return 1
}
"""
"""Shell functions. ``leave_alone CARD`` fails if a manager that runs does not leave the card alone within seconds."""
