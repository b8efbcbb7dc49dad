"""Change the disks of a machine that runs under QEMU.

QEMU reaches a disk's file through a graph of nodes. A filter can be put over a node while the machine runs, as a
device's property ``drive`` can be set at any time. Nothing is prepared for that, so it costs nothing if it is not used.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pytest_xhyve.formats.write_log import SECTOR, count_flushed
from pytest_xhyve.hypervisors.block import DiskError, Request
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import NotSupported, XhyveError

# The kinds of QEMU's requests (BlkdebugIOType in qapi/block-core.json of its sources).
_KINDS: Mapping[Request, Sequence[str]] = {
    "read": ("read",),
    "write": ("write", "write-zeroes", "discard"),
    "flush": ("flush",),
}
# The place of the devices with ids in QEMU's tree of objects.
_DEVICES = "/machine/peripheral"
# A guest releases a disk within a second, unless it is busy or paused. QEMU sends no answer if it refuses.
_RELEASE_SECONDS = 15.0
_LOOK_SECONDS = 0.02
_FILE = {"driver": "file", "cache": {"no-flush": True}, "discard": "unmap"}


class _Execute(Protocol):
    def __call__(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command and return its result."""


def node_name(disk: int) -> str:
    """The name of the node of the disk *disk* on QEMU's command line."""
    return f"disk{disk}"


def device_name(disk: int) -> str:
    """The name of the device of the disk *disk* on QEMU's command line."""
    return f"vd{disk}"


def disk_device(disk: int, node: str) -> dict[str, str]:
    """The driver and the properties of the device of the disk *disk*, whose data is that of *node*."""
    return {"driver": "virtio-blk-pci", "id": device_name(disk), "drive": node}


def port_name(disk: int) -> str:
    """The name of the port into which the disk *disk* is plugged; the first disk has none."""
    return f"port{disk}"


class QemuBlockLayer:
    """See `pytest_xhyve.hypervisors.block.BlockLayer`.

    Args:
        execute: runs a QMP command; it raises `NotSupported` if QEMU refuses it.
        unplugged: the disks without which QEMU was started.
    """

    def __init__(self, execute: _Execute, unplugged: Iterable[int] = ()) -> None:
        self._execute = execute
        self._unplugged = set(unplugged)
        self._limits: dict[int, dict[str, int]] = {}
        self._logs: dict[int, Path] = {}
        self._own_flushes: dict[int, set[int]] = {}
        # The node that contains a disk's data: the one on the command line, or the last overlay.
        self._data: dict[int, str] = {}
        self._overlays_made = 0
        self._errors: dict[int, DiskError] = {}
        self._filters: dict[int, str] = {}
        self._filters_made = 0

    @property
    def is_recording(self) -> bool:
        """Whether the writes of a disk are recorded."""
        return bool(self._logs)

    def disk_size(self, disk: int) -> int:
        name = node_name(disk)
        nodes = self._execute("query-named-block-nodes", flat=True)
        return next(int(node["image"]["virtual-size"]) for node in nodes if node["node-name"] == name)

    def record(self, disk: int, overlay: Path, log: Path) -> None:
        error = self._errors.get(disk)
        # The filter of an error comes over the one that records: a write that fails is not recorded.
        self.fail(disk, None)
        self._record(disk, overlay, log)
        self.fail(disk, error)

    def _record(self, disk: int, overlay: Path, log: Path) -> None:
        under, logging = self._data_node(disk), _log_name(disk)
        # A file of a fixed size: what the guest writes does not fill the host's disk.
        file = _FILE | {"filename": str(log)}
        limited = {"driver": "raw", "size": log.stat().st_size, "file": file, "cache": {"no-flush": True}}
        # This node passes flushes on, unlike those under it: otherwise, it would not record them.
        filtered = {"driver": "blklogwrites", "file": under, "log": limited, "log-sector-size": SECTOR}
        self._add({"node-name": logging, "discard": "unmap", **filtered})
        # First the log, and then the overlay: a write between the two is in the frozen disk, as if it were flushed.
        self._set_drive(disk, logging)
        try:
            self.freeze(disk, overlay)
        except NotSupported:
            self._set_drive(disk, under)
            raise
        self._logs[disk] = log
        self._own_flushes[disk] = set()

    def freeze(self, disk: int, overlay: Path) -> None:
        name = f"overlay{self._overlays_made}"
        file = _FILE | {"filename": str(overlay)}
        self._add({"driver": "qcow2", "node-name": name, "backing": None, "file": file, "discard": "unmap"})
        # The overlay takes the disk's place also under filters.
        self._execute("blockdev-snapshot", node=self._data_node(disk), overlay=name)
        self._overlays_made += 1
        self._data[disk] = name

    def fail(self, disk: int, error: DiskError | None) -> None:
        # The rules of a filter cannot be changed, so a new one takes the place of the last.
        old = self._filters.get(disk)
        data = _log_name(disk) if disk in self._logs else self._data_node(disk)
        if error is None:
            if old is not None:
                self._set_drive(disk, data)
        else:
            rule = {"event": "none", "errno": error.number, "immediately": True}
            if error.sector is not None:
                rule["sector"] = error.sector
            kinds = [kind for request in error.requests for kind in _KINDS[request]]
            name = f"error{self._filters_made}"
            rules = [{**rule, "iotype": kind} for kind in kinds]
            self._add(
                {"driver": "blkdebug", "node-name": name, "image": data, "inject-error": rules, "discard": "unmap"}
            )
            self._filters_made += 1
            self._set_drive(disk, name)
            self._filters[disk], self._errors[disk] = name, error
        if old is not None:
            self._execute("blockdev-del", **{"node-name": old})
        if error is None:
            self._filters.pop(disk, None)
            self._errors.pop(disk, None)

    def slow_down(self, disk: int, bytes_per_second: int | None, iops: int | None) -> None:
        self._limits[disk] = {"bps": bytes_per_second or 0, "iops": iops or 0}
        self._set_limits(disk)

    def _set_limits(self, disk: int) -> None:
        if disk not in self._unplugged:
            unlimited = dict.fromkeys(("bps_rd", "bps_wr", "iops_rd", "iops_wr"), 0)
            limits = {**unlimited, **self._limits[disk]}
            self._execute("block_set_io_throttle", id=f"{_path(disk)}/virtio-backend", **limits)

    @property
    def unplugged(self) -> frozenset[int]:
        return frozenset(self._unplugged)

    def unplug(self, disk: int) -> None:
        if disk == 0:
            raise NotSupported("the first disk has the guest's system, and cannot be unplugged; disks=[…] can")
        if self._execute("query-status")["status"] != "running":
            raise XhyveError(f"the guest is paused, so it cannot release disk {disk}; resume() it first")
        try:
            self._execute("device_del", id=device_name(disk))
        except NotSupported as error:
            # A guest that was busy may release it after the end of an earlier call.
            if not any(reason in str(error) for reason in ("in the process of unplug", "not found")):
                raise
        end = monotonic() + _RELEASE_SECONDS
        while device_name(disk) in {each["name"] for each in self._execute("qom-list", path=_DEVICES)}:
            if monotonic() > end:
                raise XhyveError(
                    f"the guest has not released disk {disk} within {_RELEASE_SECONDS:g} s: it hangs, or its kernel "
                    "cannot (CONFIG_HOTPLUG_PCI_ACPI, CONFIG_HOTPLUG_PCI_PCIE)"
                )
            time.sleep(_LOOK_SECONDS)
        self._unplugged.add(disk)

    def plug(self, disk: int) -> None:
        self._execute("device_add", **disk_device(disk, self._top_node(disk)), bus=port_name(disk))
        self._unplugged.discard(disk)
        if disk in self._limits:
            self._set_limits(disk)

    def own_flushes(self, disk: int) -> frozenset[int]:
        return frozenset(self._own_flushes[disk])

    @contextmanager
    def noting_own_flushes(self) -> Iterator[None]:
        """For a block in which QEMU flushes the disks of its own accord, as it does when it stops the machine.

        QEMU counts the guest's flushes. If the guest completes one meanwhile, the block's flush counts as the guest's.
        """
        asked = {disk: self._count_flushes(disk) for disk in self._logs}
        logged = {disk: count_flushed(log) for disk, log in self._logs.items()}
        yield
        for disk, log in self._logs.items():
            now = count_flushed(log)
            if now > logged[disk] and self._count_flushes(disk) == asked[disk]:
                self._own_flushes[disk].update(range(logged[disk], now))

    def _count_flushes(self, disk: int) -> int:
        """How often the guest has flushed the disk."""
        if disk in self._unplugged:
            return 0
        device = f"{_path(disk)}/"
        for found in self._execute("query-blockstats"):
            if found.get("qdev", "").startswith(device):
                return int(found["stats"]["flush_operations"])
        raise NotSupported(f"QEMU has no figures for {device_name(disk)}")

    def _data_node(self, disk: int) -> str:
        return self._data.get(disk, node_name(disk))

    def _add(self, node: dict[str, Any]) -> None:
        self._execute("blockdev-add", **node)

    def _top_node(self, disk: int) -> str:
        """The node that the disk's device uses."""
        return self._filters.get(disk) or (_log_name(disk) if disk in self._logs else self._data_node(disk))

    def _set_drive(self, disk: int, node: str) -> None:
        # A disk gets its node when it is plugged in.
        if disk not in self._unplugged:
            self._execute("qom-set", path=_path(disk), property="drive", value=node)


def _log_name(disk: int) -> str:
    return f"log{disk}"


def _path(disk: int) -> str:
    """The path of the disk's device in QEMU's tree of objects."""
    return f"{_DEVICES}/{device_name(disk)}"
