"""This host: processes, privileges, the cache folder, locks, clones and DHCP leases."""
