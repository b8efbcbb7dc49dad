"""An xhyve for Linux: takes the command line of xhyve, and boots the guest with QEMU."""
