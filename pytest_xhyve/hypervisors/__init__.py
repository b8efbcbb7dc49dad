"""One file for each program that runs guests, behind the interface in `base`."""
