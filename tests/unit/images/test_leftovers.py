from __future__ import annotations

import os

from fake_images import write_image

from pytest_xhyve.host.home import Home
from pytest_xhyve.images import build, publishing
from pytest_xhyve.images.manifest import read_manifest


def test_what_other_images_left_stays(new_home: Home) -> None:
    """Also when their names begin with this one's."""
    images = new_home.folder("images")
    image = read_manifest(write_image(images, "tiny"))
    names = ("tiny-0123456789ab", ".tiny.abc", "tiny-partitioned-0123456789ab", ".tiny-partitioned.abc")
    folders = [images / name for name in names]
    for folder in folders:
        folder.mkdir()
        os.utime(folder, (0, 0))
    with publishing.new_workspace(images, "tiny"):
        pass
    build._remove_unused(images, "tiny", image, new_home)
    assert [folder.exists() for folder in folders] == [False, False, True, True]
