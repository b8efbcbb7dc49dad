"""The catalog's images are built, into the folder from which all other tests take them."""

from __future__ import annotations

import pytest

from pytest_xhyve.host.home import Home
from pytest_xhyve.images.build import build_image
from pytest_xhyve.images.check import check_image
from pytest_xhyve.images.recipe import recipe_names

# It takes a minute, and adds packages to one that is built anyway.
LARGE = pytest.param("debian12-tools", marks=pytest.mark.thorough)


@pytest.mark.parametrize("name", [LARGE if name == "debian12-tools" else name for name in recipe_names()])
def test_is_built(name: str) -> None:
    home = Home.of_user()
    image = build_image(name, home, print)
    assert (image.name, image.manifest) == (name, home.folder("images") / f"{name}.yaml")
    check_image(image, home.folder("checked"))
