"""xhyve and hyperkit as the hypervisor, on Intel Macs."""
