"""The folders of the host that a guest has, too: what serves them, and where the guest mounts them."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pytest_xhyve.host.nfs_server import NfsServer
from pytest_xhyve.host.shared_folder import SharedFolder
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.share import Share


@dataclass(frozen=True, slots=True)
class ServedShare:
    """A folder that the server serves.

    Attributes:
        share: the host's folder, and the guest's.
        path: the server's name for it.
        mode: its permission bits.
    """

    share: Share
    path: str
    mode: int


@dataclass(frozen=True, slots=True)
class GuestShares:
    """The shares of one guest.

    Attributes:
        served: the folders.
        server: serves them.
        address: where the guest reaches the host's loopback interface; None if it reaches the server over SSH.
    """

    served: Sequence[ServedShare]
    server: NfsServer
    address: str | None

    @property
    def exposed(self) -> dict[int, int]:
        """The port of the host that the guest has to reach over SSH, for the port in the guest."""
        return {} if self.address is not None else {self.server.port: self.server.port}


@contextmanager
def serving_shares(shares: Sequence[Share], address: str | None) -> Iterator[GuestShares]:
    """Serve the host's folders of *shares* until the end of the block.

    Args:
        shares: what a guest is to have.
        address: where the guest reaches the host's loopback interface; None if it does not.

    Raises:
        ConfigurationError: a folder cannot be read.
    """
    with ExitStack() as stack:
        folders, served = [], []
        for share in shares:
            try:
                folder = SharedFolder(share.folder)
            except OSError as error:
                raise ConfigurationError(f"cannot share {share.folder}: {error.strerror}") from error
            stack.callback(folder.close)
            folders.append(folder)
            served.append(ServedShare(share, f"/{folder.token.hex()}", stat.S_IMODE(folder.root().status.st_mode)))
        yield GuestShares(served, stack.enter_context(NfsServer(folders)), address)
