"""This host: its processes, privileges, folders, locks and clones."""
