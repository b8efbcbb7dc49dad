# Runs in the helper guest: unmount the system, so that its file systems are clean.
place=$(cat /tmp/place 2>/dev/null)
sync
[ -n "$place" ] && umount "/mnt/root/$place"
umount /mnt/root/dev 2>/dev/null
for mounted in $(sed -n 's/^[^ ]* \(\/mnt\/root[^ ]*\) .*/\1/p' /proc/mounts | sort -r); do
    umount "$mounted" || exit 1
done
lvm vgchange --activate n >/dev/null 2>&1
sync
