"""The disks that were pulled from the network: each once for all runs of this user, until it is updated.

``pulled/KEY.json`` names the current file of an address and states what it was checked against. The file is in a folder
of its own, whose name has its digest, so that layers over an earlier one stay valid.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_xhyve.formats.checksums import find_checksum
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.locks import locked
from pytest_xhyve.host.signature import find_gpgv, verified_content
from pytest_xhyve.images.distributions import Address
from pytest_xhyve.model.errors import ConfigurationError, ImageError

if TYPE_CHECKING:
    from pytest_xhyve.host.download import Checksum, Limits

FOLDER = "pulled"
"""The folder in the cache folder."""

_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Pulled:
    """A disk that was pulled.

    Attributes:
        name: the image's name.
        disk: the file.
        url: where it came from.
        checksum: its checksum, for people.
        signature: what was found out about the signature of the checksum, for people.
        on: when it was pulled, as in ISO 8601.
    """

    name: str
    disk: Path
    url: str
    checksum: str
    signature: str
    on: str


def find_pulled(address: Address, cache: Path) -> Pulled | None:
    """What was pulled from *address* into the cache folder *cache*; None if nothing was."""
    folder = cache / FOLDER
    try:
        about: dict[str, Any] = json.loads((folder / f"{address.key}.json").read_text())
        disk = folder / about["file"]
        found = Pulled(address.name, disk, about["url"], about["checksum"], about["signature"], about["on"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if disk.is_file() else None


def current_folders(cache: Path) -> dict[Path, str]:
    """The folders of the files that guests can be made of now, with the names of their images."""
    found = {}
    for path in (cache / FOLDER).glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            about = json.loads(path.read_text())
            found[(cache / FOLDER / about["file"]).parent] = str(about["name"])
    return found


class PulledImages:
    """The pulled disks in the cache folder *home*.

    Args:
        home: the cache folder.
        mirrors: pairs of the beginning of an address, and what stands in its place.
        offline: whether nothing may be downloaded.
        report: called with a line for what takes long.
        factor: for the limits of time of a download.
        limits: these limits, in the place of the usual ones.
    """

    def __init__(
        self,
        home: Home,
        mirrors: Sequence[tuple[str, str]],
        report: Callable[[str], None],
        *,
        offline: bool,
        factor: float = 1.0,
        limits: Limits | None = None,
    ) -> None:
        self._home = home
        self._mirrors = tuple(mirrors)
        self._report = report
        self._offline = offline
        self._factor = factor
        self._limits = limits

    def find(self, address: Address) -> Pulled | None:
        """What was pulled from *address*, without a look at the network; None if nothing was."""
        return find_pulled(address, self._home.path)

    def get(self, address: Address, *, update: bool = False) -> Pulled:
        """The disk at *address*; it is pulled if it was not yet.

        If two processes pull the same, the second waits and takes what the first got.

        Args:
            address: where the disk is.
            update: whether a newer file takes the place of the one that was pulled before.

        Raises:
            ConfigurationError: it was not pulled yet, and nothing may be downloaded.
            ImageError: it cannot be downloaded, or is not what was expected.
        """
        found = self.find(address)
        if found is not None and not update:
            return found
        if self._offline:
            raise ConfigurationError(
                f"{address.name} was not pulled yet, and --xhyve-offline forbids downloads\n"
                f"  run `pytest-xhyve pull` where there is a network, and copy the folder {self._home.path / FOLDER}"
            )
        folder = self._home.folder(FOLDER)
        with locked(folder / f"{address.key}.lock", f"pulls {address.name}", report=self._report):
            meanwhile = self.find(address)
            if meanwhile is not None and (not update or meanwhile != found):
                return meanwhile
            return self._pull(address, folder, meanwhile)

    def _pull(self, address: Address, folder: Path, before: Pulled | None) -> Pulled:
        # Only who downloads needs this module, which imports much.
        from pytest_xhyve.host.download import download  # noqa: PLC0415

        checksum, signature = self._expected(address)
        text = f"{checksum.kind}:{checksum.digest}"
        if before is not None and before.checksum == text:
            self._report(f"{address.name} is up to date: pulled on {before.on}")
            return before
        url = self._mirrored(address.url)
        self._report(f"pulling {address.name} from {url}")
        target = folder / f"{address.key}-{checksum.digest[:_DIGITS]}"
        # The name is the same for each try, so that the next one finds what this one left.
        workspace = folder / f".{target.name}.part"
        workspace.mkdir(mode=0o700, exist_ok=True)
        download(url, workspace / address.file, checksum, self._report, self._find_limits())
        shutil.rmtree(target, ignore_errors=True)
        workspace.rename(target)
        about = {
            "name": address.name,
            "file": f"{target.name}/{address.file}",
            "url": url,
            "checksum": text,
            "signature": signature,
            "on": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        fresh = folder / f"{address.key}.new"
        fresh.write_text(json.dumps(about))
        fresh.replace(folder / f"{address.key}.json")
        self._report(f"pulled {address.name}; {signature}")
        pulled = self.find(address)
        if pulled is None:
            raise ImageError(f"{target} was removed as soon as it was pulled")
        return pulled

    def _find_limits(self) -> Limits:
        # Few runs download.
        from pytest_xhyve.host.download import Limits  # noqa: PLC0415

        return self._limits or Limits.of_factor(self._factor)

    def _expected(self, address: Address) -> tuple[Checksum, str]:
        """What the disk must have, and what was found out about the signature."""
        from pytest_xhyve.host.download import Checksum, fetch_text  # noqa: PLC0415

        limits = self._find_limits()
        if address.checksum is not None:
            return Checksum(*address.checksum), "its checksum is stated in the address"
        assert address.sums is not None
        url = self._mirrored(address.sums)
        content = fetch_text(url, limits)
        if address.signature is None:
            signature = f"{url} is not signed"
        elif address.keyring is None or not address.keyring.is_file():
            signature = f"the signature of {url} was not checked: {address.keyring or 'its keyring'} is not there"
        elif find_gpgv() is None:
            signature = f"the signature of {url} was not checked: gpgv is not installed"
        else:
            inline = address.signature == "inline"
            detached = None if inline else fetch_text(self._mirrored(address.signature), limits)
            content = verified_content(content, detached, address.keyring, url)
            signature = f"{url} is signed by a key of {address.keyring}"
        found = find_checksum(content.decode(errors="replace"), address.file)
        if found is None:
            raise ImageError(
                f"{url} has no checksum of {address.file}\n"
                "  the distribution may have renamed the file: state its address in the list of --xhyve-distributions"
            )
        return Checksum(*found), signature

    def _mirrored(self, url: str) -> str:
        for begin, instead in self._mirrors:
            if url.startswith(begin):
                return instead + url.removeprefix(begin)
        return url
