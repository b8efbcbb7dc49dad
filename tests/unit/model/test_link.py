"""What users write about links between guests."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.link import Impairment


def test_units() -> None:
    assert Impairment.parse(latency="100ms", jitter=0.02, loss="5%", rate="1.5mbit", corrupt=None) == Impairment(
        latency=0.1, jitter=0.02, loss=0.05, rate=1.5e6
    )
    assert Impairment.parse(latency="500us", rate="1 Gbit", reorder="100%") == Impairment(
        latency=0.0005, rate=1e9, reorder=1.0
    )
    assert Impairment.parse() == Impairment()


def test_shown_for_people() -> None:
    assert str(Impairment.parse(latency="100ms", loss="5%", rate="1mbit")) == "latency 100 ms, loss 5 %, rate 1 Mbit/s"
    assert str(Impairment()) == ""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latency": "-1ms"}, "latency: '-1ms' is not a duration up to 60 s; write 100ms or 1s"),
        ({"latency": "100"}, "latency: '100' is not a duration"),
        ({"latency": "1h"}, "latency: '1h' is not a duration"),
        ({"latency": "61s"}, "latency: '61s' is not a duration"),
        ({"latency": -0.1}, "latency: -0.1 is not a duration"),
        ({"latency": math.nan}, "latency: nan is not a duration"),
        ({"latency": True}, "latency: True is not a duration"),
        ({"latency": "10ms", "jitter": "20ms"}, r"jitter: 0.02 s is more than the latency, 0.01 s"),
        ({"jitter": "1ms"}, "jitter: 0.001 s is more than the latency"),
        ({"loss": "150%"}, "loss: '150%' is not a share; write 5% or 0.05"),
        ({"loss": "5"}, "loss: '5' is not a share"),
        ({"loss": 5}, "loss: 5 is not a share"),
        ({"duplicate": math.inf}, "duplicate: inf is not a share"),
        ({"rate": "0"}, "rate: '0' is not a rate from 1kbit"),
        ({"rate": "0mbit"}, "rate: '0mbit' is not a rate"),
        ({"rate": 10}, "rate: 10 is not a rate"),
        ({"rate": "1MB"}, "rate: '1MB' is not a rate"),
        ({"reorder": "5%"}, "reorder: only frames that are late can be overtaken; give a latency, too"),
        ({"delay": "5ms"}, r"a link has no 'delay' \(known: latency, jitter"),
        ({"latencie": "5ms"}, "a link has no 'latencie'; did you mean latency"),
    ],
)
def test_invalid_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Impairment.parse(**values)
