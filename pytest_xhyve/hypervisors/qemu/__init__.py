"""QEMU as the hypervisor."""
