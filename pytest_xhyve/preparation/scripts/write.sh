# Runs in the helper guest: write the file $1 of the system with the mode $2; the content is on standard input.
# $3 is "append" or empty.
place=$(cat /tmp/place)
chroot /mnt/root "/$place/busybox" sh -c '
    busybox=$0
    set -e
    folder=$("$busybox" dirname "/$1")
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
' "/$place/busybox" "$@"
