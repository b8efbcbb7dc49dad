"""The drivers of the programs that run guests, behind the interface in `base`."""
