"""Which layers in the cache folder are based on a folder of it."""

from __future__ import annotations

from pathlib import Path

from pytest_xhyve.host.home import Home
from pytest_xhyve.images.layers import SAVED, LayerStore, layers_over


class LayersOver:
    """The layers in the cache folder *home*, read anew by each call, as another process may make or remove one."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._forgotten: set[Path] = set()

    def names(self, folder: Path) -> list[str]:
        """The folders of the layers that are based on a file in *folder*, and were not forgotten."""
        return [path.name for path in layers_over(folder, self._home) if path not in self._forgotten]

    def forget(self, folder: Path) -> None:
        """Count the layer in *folder* as removed."""
        self._forgotten.add(folder)

    def saved_names(self, folder: Path) -> tuple[str, ...]:
        """The names of the saved guest whose layer is in *folder*; none for other layers."""
        return next(
            (layer.names for layer in LayerStore(self._home).all() if layer.image.manifest.parent == folder), ()
        )

    def forget_names(self, folder: Path) -> None:
        """Remove the names of the layer that was in *folder*."""
        for path in (self._home.path / SAVED).glob("[!.]*"):
            if path.read_text().strip() == folder.name:
                path.unlink(missing_ok=True)
