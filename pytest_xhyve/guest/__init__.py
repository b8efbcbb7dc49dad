"""One guest: its machine, its console, its SSH connection, its commands and files."""
