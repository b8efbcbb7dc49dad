from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pytest_xhyve.host.home import Home
from pytest_xhyve.preparation.prepared import FOLDER, describe_duration, record_duration


def test_durations_that_are_recorded_at_once(new_home: Home) -> None:
    """As those of two workers that prepare two disks: none fails, and none is lost."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(partial(record_duration, new_home), [30.0] * 100))
    recorded = json.loads((new_home.folder(FOLDER) / "seconds.json").read_text())
    assert recorded == [30.0] * 10
    assert describe_duration(new_home) == "usually takes about 30 s"
