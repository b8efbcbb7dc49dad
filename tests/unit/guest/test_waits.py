from __future__ import annotations

from pytest_xhyve.guest.waits import SystemState


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
