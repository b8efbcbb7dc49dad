"""The guest's own kernel: load a module with parameters, set a sysctl, and see what they do.

To copy: `run` with a list of words, `check=False`, `user=` and `input=`. Nothing is undone: the guest is thrown away.
"""

from __future__ import annotations

from pytest_xhyve import Guest

BIND_PORT_80 = "import socket; socket.create_server(('127.0.0.1', 80))"


class TestKernel:
    """These share a guest, as neither disturbs the other."""

    def test_module_takes_its_parameters(self, xhyve_class_guest: Guest) -> None:
        guest = xhyve_class_guest
        guest.run(["modprobe", "brd", "rd_nr=1", "rd_size=4096"])
        assert guest.run(["blockdev", "--getsize64", "/dev/ram0"]).stdout == f"{4 << 20}\n"
        guest.run(["dd", "of=/dev/ram0"], input=b"written")
        assert guest.run(["head", "-c", "7", "/dev/ram0"]).stdout == "written"

    def test_sysctl_lets_anybody_have_low_ports(self, xhyve_class_guest: Guest) -> None:
        guest = xhyve_class_guest
        refused = guest.run(["python3", "-c", BIND_PORT_80], user="nobody", check=False)
        assert "PermissionError" in refused.stderr
        guest.run(["sysctl", "net.ipv4.ip_unprivileged_port_start=80"])
        guest.run(["python3", "-c", BIND_PORT_80], user="nobody")
