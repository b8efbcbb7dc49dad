from __future__ import annotations

from pytest_xhyve.guest.waits import SystemState, _listening

# As `cat /proc/net/tcp /proc/net/tcp6` prints it: SSH on any address, a server on [::1], a connection.
TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0F02000A:0016 0202000A:9C5E 01 00000000:00000000 02:000AFC79 00000000     0        0 2 2 0 20 4 30 10 -1
   2: 0F02000A:1F91 0202000A:9C5E 01 00000000:00000000 02:000AFC79 00000000     0        0 2 2 0 20 4 30 10 -1
  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000

"""


def test_ports_that_listen() -> None:
    assert _listening(TABLE) == {22, 0x1F90}
    assert _listening("what a hostile guest prints 0A\nx y:zz z 0A\n\udcff") == set()


def test_state_of_a_system_names_the_units_that_failed() -> None:
    assert str(SystemState.parse("running\n")) == "running"
    # As `systemctl list-units --failed --plain --no-legend` prints them.
    output = "degraded\ncloud-config.service loaded failed failed Cloud-init\na.mount loaded failed failed A\n"
    assert str(SystemState.parse(output)) == "degraded (failed: cloud-config.service, a.mount)"
    # systemd 237 has no list of units while it is offline.
    assert SystemState.parse("") == SystemState("unknown")
    hostile = SystemState.parse("\x1b[2J" * 100 + "\n\n" + "unit\x07 failed\n" * 1000)
    assert len(str(hostile)) < 400
    assert "\x1b" not in str(hostile)
