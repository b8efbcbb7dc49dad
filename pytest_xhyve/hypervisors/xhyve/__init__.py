"""The driver for xhyve and hyperkit, on Intel Macs."""
