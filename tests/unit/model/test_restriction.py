"""On which images a test may run."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_xhyve.model.restriction import ImageFacts, Restriction

DEBIAN = ImageFacts("debian12", "debian", "12", "systemd", "x86_64")
ROCKY = ImageFacts("rocky-9", "rocky", "9.4", "systemd", "x86_64")
UNKNOWN = ImageFacts("disk.img")


@pytest.mark.parametrize(
    ("keys", "facts", "runs"),
    [
        ({}, UNKNOWN, True),
        ({"only": "debian12"}, DEBIAN, True),
        ({"only": "debian12"}, ROCKY, False),
        ({"only": ["tiny", "debian12"]}, DEBIAN, True),
        ({"only": {"distro": ["debian", "rocky"]}}, ROCKY, True),
        ({"only": {"distro": "rocky", "version": "9"}}, ROCKY, True),
        ({"only": {"distro": "rocky", "version": "9.4"}}, ROCKY, True),
        ({"only": {"version": "1"}}, DEBIAN, False),
        ({"only": {"distro": "rocky", "version": "8"}}, ROCKY, False),
        ({"skip_on": {"init": "systemd"}}, DEBIAN, False),
        ({"skip_on": ["tiny", {"distro": "debian", "version": "11"}]}, DEBIAN, True),
        ({"only": {"init": "systemd"}, "skip_on": "rocky-9"}, ROCKY, False),
    ],
)
def test_images_that_are_known(keys: dict[str, Any], facts: ImageFacts, runs: bool) -> None:
    restriction = Restriction.parse(**keys)
    for is_complete in (False, True):
        assert (restriction.reason_to_skip(facts, is_complete=is_complete) is None) == runs


def test_image_that_states_nothing_is_judged_when_no_more_will_be_known() -> None:
    only, skip_on = Restriction.parse(only={"distro": "debian"}), Restriction.parse(skip_on={"distro": "debian"})
    assert only.reason_to_skip(UNKNOWN, is_complete=False) is None
    assert only.reason_to_skip(UNKNOWN, is_complete=True) == "only on distro debian, and the image is disk.img"
    assert skip_on.reason_to_skip(UNKNOWN, is_complete=True) is None
