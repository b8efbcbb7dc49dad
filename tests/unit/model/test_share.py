"""Shares as users write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_xhyve.model.cluster import ClusterSpec
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.share import Share
from pytest_xhyve.model.spec import GuestSpec


def test_relative_folders_are_those_of_the_project(tmp_path: Path) -> None:
    spec = GuestSpec.parse(shares={"/src": ".", "/data/./": tmp_path / "data", "/c": "../c"})
    assert spec.shares == (Share("/src", Path()), Share("/data", tmp_path / "data"), Share("/c", Path("../c")))
    assert spec.anchored(Path("/project")).shares == (
        Share("/src", Path("/project")),
        Share("/data", tmp_path / "data"),
        Share("/c", Path("/project/../c")),
    )
    cluster = ClusterSpec.parse(web={"shares": {"/src": "."}}, db=None).anchored(Path("/project"))
    assert (cluster.guests["web"].shares, cluster.guests["db"].shares) == ((Share("/src", Path("/project")),), None)


@pytest.mark.parametrize(
    "value",
    [
        "/src",
        [("/src", ".")],
        {"src": "."},
        {"/": "."},
        {"/a/..": "."},
        {"//": "."},
        {"/a\nb": "."},
        {1: "."},
        {"/src": None},
        {"/src": ""},
        {"/src": "a\0b"},
        {f"/{number}": "." for number in range(17)},
    ],
)
def test_what_is_not_a_share(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="shares: "):
        GuestSpec.parse(shares=value)
