"""Guests by hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_xhyve.model.image import Image
from pytest_xhyve.model.spec import GuestSpec

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest


class GuestFactory:
    """Makes guests by hand: ``factory(image="tiny", name="web") -> Guest``.

    A guest lives until the factory's scope ends, or until the end of a ``with`` block around it.
    """

    def __init__(self, make: Callable[[GuestSpec], Guest], default: GuestSpec) -> None:
        self._make = make
        self._default = default

    def __call__(
        self,
        *,
        image: str | os.PathLike[str] | Image | None = None,
        name: str | None = None,
        cpus: int | None = None,
        memory: int | str | None = None,
        start: str | None = None,
    ) -> Guest:
        """A guest, booted and reachable.

        Args:
            image: a name, a path or an image; that of the run, otherwise.
            name: the guest's, and its host name; made up, otherwise.
            cpus: virtual CPUs.
            memory: bytes, or a text as ``512M``.
            start: ``cold``, ``warm`` or ``auto``; as the run's option says, otherwise.

        Raises:
            XhyveError: in one of its kinds.
        """
        spec = GuestSpec.parse(image=image, name=name, cpus=cpus, memory=memory, start=start)
        return self._make(spec.with_defaults(self._default))
