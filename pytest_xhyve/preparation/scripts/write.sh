# Runs in the helper guest: write the file $1 of the system with the mode $2; the content is on standard input.
# $3 is "append" or empty; $4 is the policy of SELinux that labels it, or empty.
place=$(cat /tmp/place)
# setfiles(8) reaches the files by /proc/self/fd.
[ -z "$4" ] || [ -d /mnt/root/proc/self ] || mount -t proc none /mnt/root/proc || exit 1
chroot /mnt/root "/$place/busybox" sh -c '
    busybox=$0
    set -e
    folder=$("$busybox" dirname "/$1")
    # What is labelled: the file, or the first folder above it that is new.
    new=/$1
    above=$folder
    while ! [ -e "$above" ]; do
        new=$above
        above=$("$busybox" dirname "$above")
    done
    umask 022
    case $folder in */.ssh) umask 077 ;; esac
    "$busybox" mkdir -p "$folder"
    umask 077
    if [ "$3" = append ]; then
        "$busybox" cat >>"/$1"
    else
        "$busybox" cat >"/$1.pytest-xhyve"
        "$busybox" mv "/$1.pytest-xhyve" "/$1"
    fi
    "$busybox" chmod "$2" "/$1"
    # -m: the kernel of this guest states no file system that has labels, for its SELinux is off.
    if [ -n "$4" ]; then
        PATH=/usr/sbin:/sbin setfiles -m -F "/etc/selinux/$4/contexts/files/file_contexts" "$new"
    fi
' "/$place/busybox" "$@"
