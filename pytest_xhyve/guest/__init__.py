"""One guest: its machine, its console, its SSH connection."""
