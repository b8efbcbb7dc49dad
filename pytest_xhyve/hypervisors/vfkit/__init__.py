"""vfkit as the hypervisor, on Macs: a command line for Apple's Virtualization framework."""
