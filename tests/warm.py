"""Guests that are restored from a template, and what their templates and fleets show."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import UUID

from listening import Recorder

from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.values import StartMode
from pytest_xhyve.templates.store import Template, TemplateStore

# What was measured; --log-cli-level=INFO shows it.
LOG = logging.getLogger(__name__)


@contextmanager
def fleet_of(
    home: Home, said: list[str], image: str = "tiny", start: StartMode = "warm", executable: Path | None = None
) -> Iterator[Fleet]:
    settings = Settings(
        hypervisor="qemu",
        start=start,
        images=(image,),
        executable=None if executable is None else str(executable),
    )
    with closing(Fleet(settings, home, Recorder(said))) as fleet:
        yield fleet


def is_warm(guest: Guest) -> bool:
    return "restore" in guest.phases


def templates(home: Home) -> list[Template]:
    return TemplateStore(home.folder("templates"), home.folder("checked")).all()


def check_identity(guest: Guest) -> None:
    """See that the guest is the machine that its attributes name."""
    assert guest.run("hostname").stdout.strip() == guest.name
    assert guest.run("cat /sys/class/dmi/id/product_uuid").stdout.strip() == guest.uuid
    table = base64.b64decode(guest.run("base64 /sys/firmware/dmi/tables/DMI").stdout)
    assert UUID(guest.uuid).bytes_le in table
    # The disk's own boot loader may give cards other names, and so another order.
    assert sorted(guest.run("cat /sys/class/net/e*/address").stdout.split()) == sorted(
        [guest.mac, *guest.machine.lan_macs]
    )
    if guest.image.name == "debian12":
        assert guest.run("cat /etc/machine-id").stdout.strip() == UUID(guest.uuid).hex


def check_unplugging(guest: Guest) -> None:
    """See that the guest's second disk vanishes, is there again with its data, and does so again after a restart."""
    for text in ("first", "second"):
        guest.run(f"echo {text} | dd of=/dev/vdb bs=512 conv=sync,fsync")
        guest.disks[1].unplug()
        assert guest.run("cd /sys/block && echo vd*").stdout == "vda\n"
        guest.disks[1].plug()
        guest.wait_for("test -b /dev/vdb", timeout=30)
        assert guest.run("dd if=/dev/vdb bs=512 count=1").stdout.strip("\0") == f"{text}\n"
        if text == "first":
            guest.reboot()


def see_that_it_came_up_whole(guest: Guest) -> None:
    """See that systemd has started all that it should."""
    done = guest.run("systemctl is-system-running --wait; systemctl --failed --no-legend", check=False, timeout=300)
    assert done.stdout.split() == ["running"], done.stdout


def template_of(guest: Guest) -> Path:
    """The folder of the template on which the disk of *guest* stands."""
    argv = ["qemu-img", "info", "--force-share", "--output=json", str(guest.machine.disks[0].path)]
    done = subprocess.run(argv, check=True, capture_output=True)
    return Path(json.loads(done.stdout)["full-backing-filename"]).parent
