"""Which saved guest a test gets in the place of which new one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_xhyve.model.cluster import ClusterSpec
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.plugin.resumed_guests import ResumedTest


def saved(name: str, image: str = "tiny", *, on_lan: bool = False) -> Any:
    description = SimpleNamespace(name=name, image=SimpleNamespace(name=image), place=() if on_lan else None)
    return SimpleNamespace(saved=description, guest=name, switches={"lan": "the switch"})


def of_bundle(*guests: Any) -> ResumedTest:
    test = ResumedTest(Path("bundle"), None, None, frozen_clock=False)
    test._left = list(guests)
    return test


def test_guests_come_by_name_then_by_image_then_in_their_order() -> None:
    test = of_bundle(saved("tiny-0"), saved("debian12-1", "debian12"), saved("web"))
    taken = [
        test.take_guest(GuestSpec(image=image, name=name))
        for image, name in (("tiny", "web"), ("debian12", None), ("other", None), ("tiny", None), ("tiny", "web"))
    ]
    assert cast("Any", taken) == ["web", "debian12-1", "tiny-0", None, None]


def test_cluster_comes_whole_or_not_at_all() -> None:
    spec = ClusterSpec.parse(a="tiny", b="tiny")
    test = of_bundle(saved("a"), saved("a", on_lan=True))
    with pytest.raises(XhyveError, match="has no guest b"):
        test.take_cluster(spec)
    assert of_bundle(saved("a"), saved("b")).take_cluster(spec) is None
