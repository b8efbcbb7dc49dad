"""`pytest-xhyve images`: what it shows of the cache folder."""

from __future__ import annotations

import json

from command_line import run_separately
from fake_cache import store_of, write_build, write_template

from pytest_xhyve.host.home import Home


def test_images_of_a_folder_that_nothing_has_used(new_home: Home) -> None:
    done = run_separately("images")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["IMAGE", "STATE", "SIZE", "BUILT", "SUMMARY"]
    assert [line.split()[0] for line in lines[1:5]] == ["debian12", "debian12-tools", "tiny", "tiny-partitioned"]
    assert all("not built" in line for line in lines[1:5])
    assert lines[-1] == "no templates"
    assert not new_home.path.exists()


def test_images_and_templates(new_home: Home) -> None:
    write_build(new_home)
    template = write_template(new_home)
    lines = run_separately("images").stdout.splitlines()
    [tiny] = [line.split() for line in lines if line.startswith("tiny ") and "built" in line]
    assert tiny[1:4] == ["built", "72", "KiB"]
    assert lines[-1].split()[:2] == ["tiny", "unused"]
    assert lines[-1].endswith(template.key)
    with store_of(new_home).using(template.key):
        assert "in use" in run_separately("images").stdout
        content = json.loads(run_separately("images", "--json").stdout)
    [shown] = content["templates"]
    assert (shown["key"], shown["bytes"], shown["in_use"]) == (template.key, template.size, True)
    by_name = {image["name"]: image for image in content["images"]}
    assert by_name["tiny"]["built_at"].endswith("+00:00")
    assert (by_name["debian12"]["built"], by_name["debian12"]["bytes"]) == (False, None)


def test_damaged_image_is_said_to_be(new_home: Home) -> None:
    current, _ = write_build(new_home)
    (current / "disk.img").unlink()
    assert "damaged" in run_separately("images").stdout
