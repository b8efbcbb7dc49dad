"""Templates: saved states of booted guests, from which other guests are restored."""
