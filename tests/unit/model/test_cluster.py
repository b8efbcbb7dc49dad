"""The clusters that markers and calls state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_xhyve.model.cluster import ClusterSpec
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.spec import GuestSpec


def test_guests_by_name() -> None:
    spec = ClusterSpec.parse(server="debian12", client={"image": Path("c.img"), "memory": "1G"}, other=None)
    assert spec.guests == {
        "server": GuestSpec(image="debian12", name="server"),
        "client": GuestSpec(image=Path("c.img"), name="client", memory=1 << 30),
        "other": GuestSpec(name="other"),
    }
    assert spec.lans == {"lan": ("server", "client", "other")}


def test_guests_by_number() -> None:
    assert list(ClusterSpec.parse(nodes=3).guests) == ["node1", "node2", "node3"]
    assert ClusterSpec.parse(nodes="2", lans=None, reset=True).reset


def test_lans() -> None:
    spec = ClusterSpec.parse(nodes=3, lans={"front": ["node1", "node2"], "back": ("node2", "node3"), "one": ["node1"]})
    assert spec.lans_of("node1") == ["front", "one"]
    assert spec.lans_of("node2") == ["front", "back"]


def test_defaults_reach_each_guest() -> None:
    spec = ClusterSpec.parse(a="tiny", b=None).with_defaults(GuestSpec(image="debian12", name="x", cpus=2))
    assert spec.guests["a"] == GuestSpec(image="tiny", name="a", cpus=2)
    assert spec.guests["b"] == GuestSpec(image="debian12", name="b", cpus=2)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "a cluster needs guests: server=.*, or nodes=3"),
        ({"nodes": 0}, "nodes: 0 is not a whole number from 1"),
        ({"nodes": -1}, "nodes: -1 is not a whole number"),
        ({"nodes": True}, "nodes: True is not a whole number"),
        ({"nodes": "three"}, "nodes: 'three' is not a whole number"),
        ({"nodes": 1.5}, "nodes: 1.5 is not a whole number"),
        ({"nodes": 10**6}, "1000000 guests are too many; a LAN has 254 addresses"),
        ({"nodes": 2, "server": "tiny"}, r"give nodes=, or guests by their names \(server\), but not both"),
        ({"a b": "tiny"}, "'a b' is not a host name"),
        ({"x" * 64: "tiny"}, "is not a host name: use letters, digits and dashes, at most 63"),
        ({"-a": "tiny"}, "'-a' is not a host name"),
        ({"web": "tiny", "Web": "tiny"}, r"the guests web and Web differ in case only, which host names do not"),
        ({"LocalHost": "tiny"}, "a guest cannot have the name LocalHost"),
        ({"a": 3}, "a: 3 is not a guest; give an image, or a dict such as"),
        ({"a": ["tiny"]}, r"a: \['tiny'\] is not a guest"),
        ({"a": {"cpu": 2}}, "a: a guest has no 'cpu'; did you mean cpus"),
        ({"a": {"name": "b"}}, "a: a guest of a cluster has no key 'name'; its name is the key"),
        ({"a": {"reset": True}}, "a: a guest of a cluster has no key 'reset'; give reset=True for the whole cluster"),
        ({"a": {"memory": "lots"}}, "a: memory: 'lots' is not a size"),
        ({"a": None, "reset": "yes"}, "reset: 'yes' is not True or False"),
        ({"a": None, "lans": []}, r"lans: \[\] is not a dict"),
        ({"a": None, "lans": {}}, "lans: {} is not a dict"),
        ({"a": None, "lans": {"front": "a"}}, "lans: front: 'a' is not a list of guests"),
        ({"a": None, "lans": {"front": []}}, r"lans: front: \[\] is not a list of guests"),
        (
            {"alpha": None, "lans": {"front": ["alfa"]}},
            "no guest 'alfa'; did you mean alpha.*known: alpha",
        ),
        ({"a": None, "lans": {"front": [3]}}, "the cluster has no guest 3"),
        ({"a": None, "lans": {"front": ["a", "a"]}}, "lans: front: a guest is listed twice"),
        ({"a": None, "b": None, "lans": {"front": ["a"]}}, "lans: guest b is on no LAN; add it to one, or remove it"),
        ({"a": None, "lans": {f"n{n}": ["a"] for n in range(5)}}, "guest a is on 5 LANs; a guest can be on 4"),
        ({"a": None, "lans": {"a_b": ["a"]}}, "'a_b' is not a host name"),
        ({"a": None, "lans": {f"n{n}": ["a"] for n in range(200)}}, "lans: 200 are too many"),
    ],
)
def test_invalid_clusters(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ClusterSpec.parse(**keys)
