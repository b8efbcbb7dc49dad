"""What vfkit prints about itself (cobra's template, with the flags of pkg/cmdline/cmdline.go)."""

from __future__ import annotations

USAGE = """Usage:
  vfkit [flags]

Flags:
  -b, --bootloader stringSlice   bootloader configuration
      --cloud-init stringSlice   path to user-data and meta-data cloud-init configuration files
  -c, --cpus uint                number of virtual CPUs (default 1)
  -d, --device stringArray       devices
      --gui                      display the contents of the virtual machine onto a graphical user interface
  -h, --help                     help for vfkit
      --ignition string          path to the ignition file
  -i, --initrd string            path to the virtual machine initrd
  -k, --kernel string            path to the virtual machine Linux kernel
  -C, --kernel-cmdline string    Linux kernel command line
      --log-level string         set log level
  -m, --memory uint              virtual machine RAM size in mibibytes (default 512)
  -n, --nested                   enable nested virtualization
      --pidfile string           path to the pid file
      --restful-uri string       URI address for RESTful services (default "none://")
  -t, --timesync string          sync guest time when host wakes up from sleep
  -v, --version                  version for vfkit
"""

HELP = f"""A hypervisor written in Go using Apple's Virtualization framework to run virtual machines.
                Complete documentation is available at https://github.com/crc-org/vfkit

{USAGE}"""
