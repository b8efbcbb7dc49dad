"""The driver for QEMU."""
