# Runs in the helper guest: find the system on the disk $1, mount it at /mnt/root, and describe it.
# Prints lines "key<TAB>value"; nothing on the disk is changed, but for a journal that is replayed.
disk=$1
top=/mnt/top
root=/mnt/root
mkdir -p $top $root

print_fact() {
    printf '%s\t%s\n' "$1" "$(printf %s "$2" | tr -d '\000-\037')"
}

field() {
    blkid --probe --output value --match-tag "$2" "$1"
}

print_fact table "$(field "$disk" PTTYPE)"
# The first sector of a disk that boots by BIOS has code.
print_fact boot_code "$(dd if="$disk" bs=2 count=1 2>/dev/null | od -An -tx1 | tr -d ' ')"

# There is no udev here.
lvm_config="activation/udev_sync=0 activation/udev_rules=0 activation/monitoring=0"
volumes=$(ls -d "$disk"[0-9]* 2>/dev/null | sort -V)
[ -n "$volumes" ] || volumes=$disk
for volume in $volumes; do
    if [ "$(field "$volume" TYPE)" = LVM2_member ]; then
        modprobe -q dm_mod
        mkdir -p /run/lvm /run/lock/lvm
        lvm vgchange --sysinit --activate y --config "$lvm_config" >/dev/null 2>/tmp/lvm.err ||
            print_fact problem "LVM: $(cat /tmp/lvm.err)"
        lvm vgmknodes --config "$lvm_config" >/dev/null 2>&1
        volumes="$volumes $(lvm lvs --noheadings --options lv_dm_path --config "$lvm_config" 2>/dev/null)"
        break
    fi
done

is_root() {
    { [ -e "$1/etc/os-release" ] || [ -L "$1/etc/os-release" ] || [ -f "$1/etc/passwd" ]; } &&
        { [ -d "$1/usr" ] || [ -d "$1/lib" ]; }
}

# Whether the journal of ext4 has to be replayed (s_feature_incompat in fs/ext4/ext4.h in Linux).
needs_recovery() {
    low=$(dd if="$1" bs=1 skip=1120 count=1 2>/dev/null | od -An -tu1 | tr -d ' ')
    [ $((low & 4)) != 0 ]
}

roots=0
found() {
    print_fact root "$1 $2 $3"
    roots=$((roots + 1))
    device=$1 type=$2 subvolume=$3
}

# The programs of boot loaders on an EFI system partition.
list_efi() {
    modprobe -q vfat && modprobe -q nls_cp437 && modprobe -q nls_ascii
    mount -t vfat -o ro "$1" $top 2>/dev/null || return
    for program in $top/EFI/*/*.[eE][fF][iI]; do
        [ -f "$program" ] && print_fact efi "${program#$top/}"
    done | head -n 20
    umount $top
}

for volume in $volumes; do
    kind=$(field "$volume" TYPE)
    print_fact volume "$volume $kind"
    print_fact size "$volume $(blockdev --getsize64 "$volume")"
    entry=$(field "$volume" PART_ENTRY_TYPE)
    print_fact entry "$volume $entry"
    # The type of an EFI system partition (UEFI Specification 2.10, section 5.3.3 and table 5.4).
    case $entry in c12a7328-f81f-11d2-ba4b-00a0c93ec93b | 0xef) list_efi "$volume" ;; esac
    case $kind in
        ext2 | ext3 | ext4)
            kind=ext4
            if needs_recovery "$volume"; then print_fact dirty "$volume"; fi
            ;;
        xfs | btrfs | f2fs) modprobe -q "$kind" ;;
        *) continue ;;
    esac
    if ! mount -t "$kind" "$volume" $top 2>/tmp/mount.err; then
        reason=$(sed 's/.*failed: //' /tmp/mount.err)
        print_fact problem "$volume: cannot mount it: $reason ($(dmesg | tail -n 1 | sed 's/^\[[^]]*\] *//'))"
        continue
    fi
    if is_root $top; then
        found "$volume" "$kind" ""
    elif [ "$kind" = btrfs ]; then
        umount $top
        mount -t btrfs -o subvolid=5 "$volume" $top
        for folder in $top/*; do
            is_root "$folder" && found "$volume" "$kind" "${folder#$top/}"
        done
    fi
    umount $top
done
[ $roots = 1 ] || exit 0

mount -t "$type" ${subvolume:+-o "subvol=$subvolume"} "$device" $root || exit 1

# Other file systems of the system, such as /boot.
device_of() {
    case $1 in
        UUID=* | LABEL=*)
            for volume in $volumes; do
                wanted=$(echo "${1#*=}" | tr -d '"')
                [ "$(field "$volume" "${1%%=*}")" = "$wanted" ] && echo "$volume" && return
            done
            ;;
        /dev/mapper/*) echo "$1" ;;
        /dev/[hsv]d[a-z][0-9]*) echo "$disk${1##/dev/[hsv]d[a-z]}" ;;
        /dev/nvme*p[0-9]*) echo "$disk${1##*p}" ;;
        /dev/*/*) echo "$1" ;;
    esac
}
sed 's/#.*//' $root/etc/fstab 2>/dev/null | while read -r what where kind options _; do
    case $where in
        /boot | /boot/* | /usr | /var) ;;
        *) continue ;;
    esac
    source=$(device_of "$what")
    [ -b "$source" ] || { print_fact problem "fstab: $what for $where is not on this disk"; continue; }
    [ "$kind" = auto ] && kind=$(field "$source" TYPE)
    modprobe -q "$kind"
    [ "$kind" = vfat ] && modprobe -q nls_cp437 && modprobe -q nls_ascii
    chosen=$(echo "$options" | tr , '\n' | grep '^subvol' | head -n 1)
    mount -t "$kind" ${chosen:+-o "$chosen"} "$source" "$root$where" 2>/dev/null ||
        print_fact problem "fstab: cannot mount $what at $where"
done

# In the disk's own tree, so that its absolute links lead where they lead in the system itself.
for place in run mnt media srv tmp proc; do
    [ -d $root/$place ] && [ ! -L $root/$place ] && break
done
mount -t tmpfs none "$root/$place"
cp /usr/bin/busybox "$root/$place/busybox" || exit 1
echo "$place" >/tmp/place
mount --bind /dev $root/dev 2>/dev/null

inside() {
    chroot $root "/$place/busybox" "$@"
}

print_fact architecture "$(inside dd if=/bin/sh bs=1 skip=18 count=2 2>/dev/null | od -An -tu2 | tr -d ' ')"
print_fact elf "$(inside dd if=/bin/sh bs=1 skip=1 count=3 2>/dev/null)"
for path in usr/sbin/sshd usr/bin/sshd usr/sbin/dropbear usr/lib/systemd/systemd lib/systemd/systemd \
    usr/bin/cloud-init usr/bin/sudo usr/sbin/netplan usr/sbin/ifup sbin/ifup usr/sbin/setfiles sbin/setfiles \
    usr/lib/systemd/systemd-networkd lib/systemd/systemd-networkd usr/sbin/NetworkManager \
    etc/ssh/ssh_host_ed25519_key etc/ssh/ssh_host_ecdsa_key etc/ssh/ssh_host_rsa_key; do
    if inside test -e "/$path"; then print_fact there "$path"; fi
done
inside sh -c 'cd /; for link in etc/systemd/system/*.wants/ssh*.service etc/systemd/system/*.wants/dropbear*.service \
    etc/systemd/system/*.wants/ssh*.socket usr/lib/systemd/system/multi-user.target.wants/ssh*.service \
    etc/rc?.d/S??ssh etc/rc?.d/S??dropbear etc/runlevels/*/sshd etc/runlevels/*/dropbear; do
    [ -L "$link" ] && echo "$link"
done' | head -n 20 | while read -r link; do print_fact starts_ssh "$link"; done
# Without the passwords' hashes, which are not needed.
{
    inside cat /etc/shadow 2>/dev/null
    echo
    inside cat /etc/passwd 2>/dev/null
} | awk -F: '
    { gsub(/[[:cntrl:]]/, "") }
    $1 == "" { next }
    NF >= 8 { hash[$1] = $2; next }
    NF == 7 && ($3 == 0 || ($3 >= 1000 && $3 < 60000)) && printed++ < 50 {
        of = $1 in hash ? hash[$1] : $2
        state = of == "" ? "none" : of ~ /^[!*]/ || of == "x" ? "locked" : "set"
        print "user\t" $1 " " $3 " " state " " $7
    }'
# A hostile disk may have any number of files there.
for file in $(inside ls /boot | head -n 200); do
    if inside test -f "/boot/$file"; then print_fact boot "$file"; fi
done
