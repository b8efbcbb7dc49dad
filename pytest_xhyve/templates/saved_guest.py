"""What a bundle states of each of its guests, as plain data.

Another person may have written a bundle. So a path in it names a file of this host only for messages, or if the file's
content is as the bundle states.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self
from uuid import UUID

from pytest_xhyve.formats.bundle_file import DamagedBundle
from pytest_xhyve.formats.public_key import parse_public_key
from pytest_xhyve.guest.fault_notes import is_of_lan
from pytest_xhyve.model.architecture import ARCHITECTURES, X86_64
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.machine import MAX_LANS, Machine, Nic
from pytest_xhyve.model.values import parse_user
from pytest_xhyve.templates.saved_lan import SavedPlace

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_FORMATS = ("raw", "qcow2")
_FIRMWARE = (None, "bios", "uefi")
_MOST_DISKS = 32


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file that is not in the bundle.

    Attributes:
        path: where it was.
        digest: its SHA-256.
    """

    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class SavedImage:
    """The image of a saved guest, which the bundle names by its content.

    Attributes:
        name: its name.
        manifest: where its manifest was.
        disk: its disk.
        format: the disk's format.
        backing: the SHA-256 of each file that the disk is based on, the nearest first.
        kernel: the kernel; None if the guest boots by a boot loader.
        initrd: the initial RAM disk, or None.
        user: the user that the plugin logs in as.
        host_keys: the guest's host keys.
        login: what the guest accepts as a login: the fingerprint of a key, or ``password``.
        arch: its architecture. Older bundles state none: their guests have the default one.
    """

    name: str
    manifest: str
    disk: SavedFile
    format: str
    backing: tuple[str, ...]
    kernel: SavedFile | None
    initrd: SavedFile | None
    user: str
    host_keys: tuple[str, ...]
    login: str
    arch: str = X86_64.name


@dataclass(frozen=True, slots=True)
class SavedDisk:
    """A disk of a saved guest.

    Attributes:
        layers: the format of each of its files in the bundle, the top one first; each is based on the next.
        over_image: whether the last one is based on the image's disk.
        plugged: whether it was plugged in.
    """

    layers: tuple[str, ...]
    over_image: bool
    plugged: bool = True


@dataclass(frozen=True, slots=True)
class SavedGuest:
    """A guest in a bundle.

    Attributes:
        key: its folder in the bundle.
        name, uuid, cpus, cpu, memory, mac, cmdline, graphics, firmware, lan_macs: as in `Machine`.
        image: its image.
        disks: its disks.
        depends_on: what its memory can be restored with: see `Snapshotter.depends_on`.
        has_memory: whether its memory was saved.
        agent: see `Start.agent`.
        made: how it was made, for people.
        place: its place on LANs; None if it is on no LAN.
        faults: the faults that the test had injected into it and not healed: the place and the fault of each.
    """

    key: str
    name: str
    uuid: str
    cpus: int
    cpu: str
    memory: int
    mac: str | None
    cmdline: str
    graphics: bool
    firmware: Any
    image: SavedImage
    disks: tuple[SavedDisk, ...]
    depends_on: Mapping[str, str]
    has_memory: bool
    agent: Mapping[str, Any] | None
    made: tuple[str, ...]
    lan_macs: tuple[str, ...] = ()
    place: SavedPlace | None = None
    faults: tuple[tuple[str, str], ...] = ()

    @property
    def console(self) -> str:
        """The member with the output of its console."""
        return f"{self.key}/console"

    @property
    def state(self) -> str:
        """The member with its memory and its devices."""
        return f"{self.key}/state"

    def layer(self, disk: int, number: int) -> str:
        """The member with the file *number*, from the top, of its disk."""
        return f"{self.key}/disk{disk}.{number}"

    def members(self) -> Sequence[str]:
        """All its members."""
        layers = [
            self.layer(place, number) for place, disk in enumerate(self.disks) for number in range(len(disk.layers))
        ]
        return [self.console, *([self.state] if self.has_memory else []), *layers]

    def pulled_cables(self) -> Sequence[int]:
        """The numbers of its cards on LANs whose cables the test has pulled."""
        return [] if self.place is None else [n for n, card in enumerate(self.place.cards) if card.is_pulled]

    def faults_of_lans(self) -> Sequence[tuple[str, str]]:
        """Those of its faults that are of its LANs: the place and the fault of each."""
        return [each for each in self.faults if is_of_lan(each[0])]

    def to_dict(self) -> dict[str, Any]:
        """This object as plain data, for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The object from which `to_dict` made *content*.

        Raises:
            DamagedBundle: something in it has an impossible value.
        """
        try:
            image = dict(content["image"])
            for key in ("disk", "kernel", "initrd"):
                image[key] = None if image[key] is None else SavedFile(**image[key])
            image["backing"] = tuple(map(str, image["backing"]))
            image["host_keys"] = tuple(parse_public_key(str(key)) for key in image["host_keys"])
            disks = tuple(
                SavedDisk(tuple(disk["layers"]), bool(disk["over_image"]), bool(disk.get("plugged", True)))
                for disk in content["disks"]
            )
            lists = {key: tuple(map(str, content.get(key, ()))) for key in ("made", "lan_macs")}
            place = None if content.get("place") is None else SavedPlace.from_dict(content["place"])
            faults = tuple((str(where), str(fault)) for where, fault in content.get("faults", ()))
            parts = {"image": SavedImage(**image), "disks": disks, "place": place, "faults": faults}
            guest = cls(**{**content, **parts, **lists})
            guest._check()
        except (KeyError, TypeError, ValueError, AttributeError, ConfigurationError) as error:
            raise DamagedBundle(f"is damaged: its description of a guest is not valid ({error})") from error
        return guest

    def _check(self) -> None:
        UUID(self.uuid)
        # It goes into a file of OpenSSH.
        parse_user(self.image.user)
        problems = {
            "name": not _KEY.fullmatch(self.key) or not _KEY.fullmatch(self.name),
            "mac": not all(_MAC.fullmatch(mac) for mac in (*self.lan_macs, *([] if self.mac is None else [self.mac])))
            or len(self.lan_macs) > MAX_LANS
            or (self.place is not None and len(self.place.cards) > len(self.lan_macs)),
            "disks": not 0 < len(self.disks) <= _MOST_DISKS
            or not self.disks[0].plugged
            or any(not disk.layers or not set(disk.layers) <= set(_FORMATS) for disk in self.disks),
            "size": not (0 < self.cpus < 1000 and 0 < self.memory < 1 << 50),
            "cpu": "," in self.cpu,
            "firmware": self.firmware not in _FIRMWARE,
            "image": self.image.format not in _FORMATS or self.image.arch not in ARCHITECTURES,
            "types": not self._has_right_types(),
        }
        wrong = [name for name, is_wrong in problems.items() if is_wrong]
        if wrong:
            raise ValueError(", ".join(wrong))

    def _has_right_types(self) -> bool:
        """Whether JSON gave each value the type that this class states, as far as `_check` does not show it."""
        image = self.image
        files = [file for file in (image.disk, image.kernel, image.initrd) if file is not None]
        texts = [self.cpu, self.cmdline, image.name, image.manifest, image.user, image.login]
        texts += [text for file in files for text in (file.path, file.digest)]
        return (
            all(isinstance(text, str) and "\0" not in text for text in texts)
            and all(type(number) is int for number in (self.cpus, self.memory))
            and all(type(switch) is bool for switch in (self.graphics, self.has_memory))
            and isinstance(self.depends_on, Mapping)
            and all(isinstance(value, str) for value in self.depends_on.values())
            and (self.agent is None or isinstance(self.agent, Mapping))
        )

    def machine(self) -> Machine:
        """The machine, without the files of this host: its disks, kernel and initial RAM disk."""
        return Machine(
            name=self.name,
            uuid=UUID(self.uuid),
            cpus=self.cpus,
            cpu=self.cpu,
            memory=self.memory,
            disks=(),
            nics=(Nic(self.mac),),
            kernel=None,
            initrd=None,
            cmdline=self.cmdline,
            graphics=self.graphics,
            firmware=self.firmware,
            lan_macs=self.lan_macs,
            unplugged=frozenset(number for number, disk in enumerate(self.disks) if not disk.plugged),
        )
